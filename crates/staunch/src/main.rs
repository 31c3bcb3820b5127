//! The program: see [`staunch::main`].

use std::process::ExitCode;

/// Fewer and shorter locks than the system's allocator under many small sessions.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The allocator asks for huge pages, and each thread has a heap of its own: a page of 2 MiB for
    // some octets, which goes back to the system only as a whole. Where the kernel does not know
    // the call, it is as it was.
    let _small_pages = rustix::thread::disable_transparent_huge_pages(true);
    staunch::main(std::env::args_os())
}
