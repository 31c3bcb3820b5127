//! What a disk may hold after the power went, worked out from a recording of what a program did.

mod disk;
mod random;
mod trace;

pub use disk::{History, Loss};
pub use random::Random;
pub use trace::{Call, File, read, recording_options, write_wrapper};
