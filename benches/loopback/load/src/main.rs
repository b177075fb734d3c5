//! The load side of `make bench`: the clients of a proxy and the service behind it, in one thread, so
//! that both together take no more than one core and the proxy has the other to itself.
//!
//! Prints one line of JSON. What the proxy costs is read from the scheduler's own account of its
//! threads, at the beginning and the end of the measurement.

mod backend;
mod client;
mod options;
mod proxy;
mod tally;

use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::time::Timespec;

use backend::Backend;
use client::Clients;
use options::Options;
use tally::Tally;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// What an event is about: the upper half of its number says whose, the lower which.
const CLIENT: u64 = 1 << 32;
const BACKEND: u64 = 2 << 32;
const LISTENER: u64 = 3 << 32;

fn main() -> Outcome<()> {
    let options = Options::read()?;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut backend = options.backend.map(|port| Backend::listen(&poll, port, options.addresses)).transpose()?;
    let mut clients = Clients::new(&options, &poll)?;
    let mut events = Vec::with_capacity(1024);
    let begun = Instant::now();
    let mut tally: Option<Tally> = None;
    loop {
        let now = Instant::now();
        if let Some(tally) = &tally {
            if now >= tally.ends {
                break;
            }
        } else if now >= begun + options.warm && clients.is_warm() {
            clients.begin();
            tally = Some(Tally::begin(&options, now));
        } else if now > begun + options.warm + PATIENCE {
            return Err("the proxy took too long to answer on every connection".into());
        }
        if tally.is_some() {
            clients.send_what_is_due(now)?;
        }
        events.clear();
        let patience = if options.rate.is_some() && tally.is_some() { NONE } else { MOMENT };
        epoll::wait(&poll, spare_capacity(&mut events), Some(&patience))?;
        for event in &events {
            let (number, flags) = (event.data.u64(), event.flags);
            let at = (number & 0xffff_ffff) as usize;
            match number & !0xffff_ffff {
                CLIENT => clients.on_event(at, flags, &poll)?,
                BACKEND => backend.as_mut().map_or(Ok(()), |backend| backend.on_event(at, flags))?,
                _ => backend.as_mut().map_or(Ok(()), |backend| backend.accept(at, &poll))?,
            }
        }
    }
    if let Some(tally) = tally {
        println!("{}", tally.end(&clients));
    }
    Ok(())
}

/// How long the connections may take until each was answered once.
const PATIENCE: Duration = Duration::from_secs(60);
const NONE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
const MOMENT: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
