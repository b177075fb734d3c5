//! What the process asks of the operating system before it works.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::disable_transparent_huge_pages;

/// Lets the process open as many files as it may, has its memory in small pages, and sees to it that
/// [`keep_memory_private`] held.
///
/// A system that refuses any of this is told of in the log, and the gateway runs all the same.
pub(super) fn prepare() {
    let files = getrlimit(Resource::Nofile);
    if files.current != files.maximum {
        let wanted = Rlimit { current: files.maximum, maximum: files.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, wanted) {
            tracing::warn!(%error, "the limit of open files stays where it was");
        }
    }
    // Of a huge page all is resident, and thousands of connections touch a little of each.
    if let Err(error) = disable_transparent_huge_pages(true) {
        tracing::warn!(%error, "memory may come in huge pages, of which more is resident than is used");
    }
    if let Err(error) = keep_memory_private() {
        tracing::warn!(%error, "the process's memory could not be kept out of core dumps and from others");
    }
}

/// Keeps the process's memory out of core dumps and away from other processes of the same user: tokens
/// and master secrets pass through it. To be called before any of them is read.
///
/// # Errors
/// When the system refuses.
pub fn keep_memory_private() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_for_no_core_dump_and_no_other_process() {
        keep_memory_private().expect("this system can");
        assert_eq!(rustix::process::dumpable_behavior().ok(), Some(DumpableBehavior::NotDumpable));
        let core = getrlimit(Resource::Core);
        assert_eq!((core.current, core.maximum), (Some(0), Some(0)));
    }
}
