//! Threads that serve no traffic, and give way to those that do.
//!
//! What is found out about keys has to be loaded, written down and told of, sometimes for seconds on end, on the same
//! processors as the traffic. Where there are too few of them the traffic goes first, and what is done here takes its
//! turn a little later: docs/decisions/0113.

use std::io;
use std::thread::{self, JoinHandle};

use rustix::process::{getpid, getpriority_process, setpriority_process};

/// Starts a thread that gives way.
///
/// # Errors
/// When the operating system has none to give.
pub fn spawn<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        give_way();
        work()
    })
}

/// Lets this thread, and those that it starts from now on, give way to the process's first one and its like. There is
/// no way back without privileges.
pub fn give_way() {
    let given =
        getpriority_process(Some(getpid())).and_then(|first| setpriority_process(None, (first + STEPS).min(NICEST)));
    if let Err(error) = given {
        tracing::debug!(%error, "this thread competes with the traffic");
    }
}

/// Of the scheduler's niceness: beside a thread of the traffic that never sleeps it gets a quarter of a processor.
const STEPS: i32 = 5;
const NICEST: i32 = 19;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_in_the_background_gives_way_once_and_so_does_what_it_starts() {
        let niceness = || getpriority_process(None).expect("there is this thread");
        let ours = niceness();
        let all = spawn("test", move || {
            let first = niceness();
            give_way();
            (first, niceness(), thread::spawn(niceness).join().expect("it ends"))
        });
        let all = all.expect("a thread").join().expect("it ends");
        let expected = (ours + STEPS).min(NICEST);
        assert_eq!((all, niceness()), ((expected, expected, expected), ours));
    }
}
