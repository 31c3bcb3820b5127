//! What staunch says of what it does. A fact is made once, as a value of its wing's type, where it
//! happens; whatever is made of it is made by [`facts!`], and by nothing else.
//!
//! Today that is its line in the log. Names of events and fields are an interface
//! (`docs/operations.md`). Each wing has its facts, and their sentences, in its `facts.rs`.

use std::fmt;

use jiff::Timestamp;

/// Defines a wing's facts: an enum, and how each of them is logged.
///
/// Behind `=>` stands a call of a `tracing` macro that sees the fact's fields under their names.
/// The part of the log (`log.level = "info,staunch::queue=debug"`) is the wing, since the call is
/// in the wing's file.
macro_rules! facts {
    (
        $(#[$about:meta])*
        $visibility:vis enum $name:ident $(<$life:lifetime>)? {
            $(
                $(#[$doc:meta])*
                $fact:ident $({ $($field:ident: $type:ty),+ $(,)? })?
                => $level:ident!($($line:tt)*),
            )+
        }
    ) => {
        $(#[$about])*
        $visibility enum $name $(<$life>)? {
            $($(#[$doc])* $fact $({ $($field: $type),+ })?,)+
        }

        impl $(<$life>)? $name $(<$life>)? {
            /// Makes of the fact what is made of such facts.
            $visibility fn tell(self) {
                match self {
                    $(Self::$fact $({ $($field),+ })? => { ::tracing::$level!($($line)*); })+
                }
            }
        }
    };
}

pub(crate) use facts;

/// A time as lines of the log have it: RFC 3339 with milliseconds.
pub(crate) fn milliseconds(time: Timestamp) -> impl fmt::Display {
    format!("{time:.3}")
}
