//! What one proxied request costs the allocator and the scheduler, counted in the real gateway: clients and
//! service beside it ask for no memory once they run. The goals: at most 25 allocations a request, and two
//! wake-ups of the worker where requests come one at a time, for the request and for its answer.
//!
//! `cargo bench --bench allocations`
#![expect(clippy::print_stdout, clippy::indexing_slicing, reason = "a measurement prints, and may panic")]

use std::alloc::System;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const TOKEN: &str = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGH";
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nserver: s\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n0123456789";
const WARM: u32 = 1_000;
const REQUESTS: u32 = 10_000;

fn main() -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let service = serve()?;
    let listen = free_port()?;
    prepare(folder.path(), listen, service)?;
    let config = folder.path().join("keyward.toml").display().to_string();
    // Ends with the program.
    thread::spawn(move || keyward::cli::run(["keyward", "serve", "-c", &config].map(Into::into)));
    let mut client = connected(listen)?;
    let requests = [
        (
            "let through",
            format!("GET /items/7 HTTP/1.1\r\nhost: a.example\r\nauthorization: Bearer {TOKEN}\r\naccept: */*\r\n\r\n"),
        ),
        ("denied, without a key", "GET /items/7 HTTP/1.1\r\nhost: a.example\r\naccept: */*\r\n\r\n".to_owned()),
    ];
    for (name, request) in requests {
        (0..WARM).try_for_each(|_| ask(&mut client, request.as_bytes()))?;
        let (before, slept) = (allocations(), sleeps()?);
        (0..REQUESTS).try_for_each(|_| ask(&mut client, request.as_bytes()))?;
        let (after, slept_after) = (allocations(), sleeps()?);
        println!(
            "{name}: {:.1} allocations and {:.2} wake-ups a request",
            f64::from(u32::try_from(after - before)?) / f64::from(REQUESTS),
            f64::from(u32::try_from(slept_after - slept)?) / f64::from(REQUESTS),
        );
    }
    Ok(())
}

fn allocations() -> usize {
    let so_far = ALLOCATOR.stats();
    so_far.allocations + so_far.reallocations
}

/// How often the gateway's worker went to sleep by itself.
fn sleeps() -> Outcome<u64> {
    for thread in fs::read_dir("/proc/self/task")? {
        let thread = thread?.path();
        if fs::read_to_string(thread.join("comm"))?.starts_with("worker-") {
            let status = fs::read_to_string(thread.join("status"))?;
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            return Ok(line.ok_or("no switches in status")?.trim().parse()?);
        }
    }
    Err("the gateway has no worker".into())
}

fn prepare(folder: &Path, listen: SocketAddr, service: SocketAddr) -> Outcome<()> {
    let config = folder.join("keyward.toml");
    let text = format!(
        "[gateway]\nlisten = ['{listen}']\nworkers = 1\naccess_log = false\n[store.sqlite]\npath = 'keyward.db'\n\
         [log]\nlevel = 'off'\n[upstreams.service]\ntargets = ['http://{service}']\n\
         [[routes]]\nname = 'items'\npath = '/items/{{item}}'\nany_flags = ['item.read', 'item.{{item}}.read']\nupstream = 'service'\n"
    );
    fs::write(&config, text)?;
    let tokens = folder.join("tokens.txt");
    fs::write(&tokens, format!("{TOKEN}\n"))?;
    let (config, tokens) = (config.display().to_string(), tokens.display().to_string());
    let import = ["keys", "import", "-c", &config, "--project", "bench", "--flag", "item.read", "--tokens", &tokens];
    for words in [&["init", "-c", &config][..], &import] {
        let _said_by_itself =
            keyward::cli::run(std::iter::once("keyward").chain(words.iter().copied()).map(Into::into));
    }
    Ok(())
}

fn free_port() -> Outcome<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// A service that answers every head that ends a read.
fn serve() -> Outcome<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream));
        }
    });
    Ok(address)
}

fn answer(mut stream: TcpStream) {
    let mut buffer = [0; 8192];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        if buffer[..count].ends_with(b"\r\n\r\n") && stream.write_all(ANSWER).is_err() {
            return;
        }
    }
}

/// A connection on which a request is let through, once the gateway knows its keys.
fn connected(address: SocketAddr) -> Outcome<TcpStream> {
    for _ in 0..200 {
        thread::sleep(Duration::from_millis(50));
        if let Ok(stream) = TcpStream::connect(address) {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            return Ok(stream);
        }
    }
    Err("the gateway never listened".into())
}

/// One request and its whole answer, of which the head says the length.
fn ask(stream: &mut TcpStream, request: &[u8]) -> std::io::Result<()> {
    stream.write_all(request)?;
    let (mut buffer, mut have) = ([0; 8192], 0);
    loop {
        have += stream.read(&mut buffer[have..])?;
        let Some(end) = buffer[..have].windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = std::str::from_utf8(&buffer[..end]).unwrap_or_default();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        if have >= end + 4 + length.unwrap_or(0) {
            return Ok(());
        }
    }
}
