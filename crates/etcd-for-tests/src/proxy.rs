//! A proxy that stands between a client and a member, and can spoil what passes.
//!
//! A connection has two ways, and each way two threads: one reads pieces as they come, one decides
//! on them in order and passes them on. All decisions are made under one lock, so that a change of
//! the mode holds for every piece that has not been passed on before.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::lock;

/// A proxy on a loopback port of its own. What is said holds at once, for open connections too,
/// until something else is said.
///
/// TCP loses no piece out of the middle: a connection that has lost one is closed as soon as a
/// later one would pass the same way.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    mode: Mode,
    connections: Vec<Weak<Connection>>,
    is_over: bool,
}

#[derive(Clone, Copy, Debug)]
enum Mode {
    Pass,
    Swallow,
    SwallowAnswers,
    Delay(Duration),
    Refuse,
    Forge(&'static str, &'static str),
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Requests,
    Answers,
}

enum Verdict {
    Pass,
    Lose,
    Over,
}

/// What has been read at once, and when; nothing, where the stream ends.
type Piece = (Instant, Vec<u8>);

#[derive(Debug)]
struct Connection {
    client: TcpStream,
    server: TcpStream,
    is_over: AtomicBool,
}

impl Proxy {
    /// A proxy to a server, `HOST:PORT`, that passes everything.
    ///
    /// # Panics
    ///
    /// If that is no address, or there is no port left.
    #[must_use]
    pub fn to(endpoint: &str) -> Proxy {
        let server = endpoint.parse().expect("an address and a port");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let state = Mutex::new(State { mode: Mode::Pass, connections: Vec::new(), is_over: false });
        let shared = Arc::new(Shared { server, state, changed: Condvar::new() });
        let acceptor = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.accept(&listener))
        };
        Proxy { address, shared, acceptor: Some(acceptor) }
    }

    /// Where clients find it: `127.0.0.1:PORT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.address.to_string()
    }

    /// Everything passes, as in the beginning.
    pub fn pass(&self) {
        self.set(Mode::Pass);
    }

    /// Nothing passes, either way, the ends of connections included; all connections stay open, and
    /// new ones are made.
    pub fn drop_everything(&self) {
        self.set(Mode::Swallow);
    }

    /// What the client says passes, what the server says does not.
    pub fn swallow_answers(&self) {
        self.set(Mode::SwallowAnswers);
    }

    /// Everything passes, this much later, either way; with `Duration::MAX`, when something else is
    /// said.
    pub fn delay(&self, delay: Duration) {
        self.set(Mode::Delay(delay));
    }

    /// Everything passes, but where a server says the first, clients hear the second, which is as
    /// long.
    ///
    /// # Panics
    ///
    /// If it is not.
    pub fn forge(&self, said: &'static str, heard: &'static str) {
        assert_eq!(said.len(), heard.len(), "lengths are part of what is said");
        self.set(Mode::Forge(said, heard));
    }

    /// New connections are closed at once; open ones pass everything.
    pub fn refuse(&self) {
        self.set(Mode::Refuse);
    }

    /// Closes all connections that are open now.
    pub fn close_all(&self) {
        let mut state = lock(&self.shared.state);
        state.connections.drain(..).filter_map(|connection| connection.upgrade()).for_each(|open| open.close());
        self.shared.changed.notify_all();
    }

    fn set(&self, mode: Mode) {
        lock(&self.shared.state).mode = mode;
        self.shared.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        lock(&self.shared.state).is_over = true;
        self.close_all();
        // So that the acceptor looks up.
        let _ = TcpStream::connect(self.address);
        let _ = self.acceptor.take().map(JoinHandle::join);
    }
}

impl Shared {
    fn accept(self: Arc<Shared>, listener: &TcpListener) {
        for client in listener.incoming() {
            let (is_over, mode) = {
                let state = lock(&self.state);
                (state.is_over, state.mode)
            };
            match client {
                _ if is_over => return,
                Ok(_) if matches!(mode, Mode::Refuse) => {}
                Ok(client) => {
                    let shared = Arc::clone(&self);
                    thread::spawn(move || shared.connect(client));
                }
                // Too many files are open, say: that passes, but not at once.
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    fn connect(self: Arc<Shared>, client: TcpStream) {
        let Ok(server) = TcpStream::connect_timeout(&self.server, Duration::from_secs(1)) else { return };
        for stream in [&client, &server] {
            let _ = stream.set_nodelay(true);
        }
        let connection = Arc::new(Connection { client, server, is_over: AtomicBool::new(false) });
        {
            let mut state = lock(&self.state);
            if state.is_over {
                return;
            }
            state.connections.retain(|open| open.strong_count() > 0);
            state.connections.push(Arc::downgrade(&connection));
        }
        for way in [Way::Requests, Way::Answers] {
            let (pieces, read) = channel();
            let reading = Arc::clone(&connection);
            thread::spawn(move || reading.read(way, &pieces));
            let (shared, writing) = (Arc::clone(&self), Arc::clone(&connection));
            thread::spawn(move || shared.write(&writing, way, &read));
        }
    }

    /// Passes pieces on, or not, until the connection is over or the stream ends.
    fn write(&self, connection: &Connection, way: Way, pieces: &Receiver<Piece>) {
        let mut has_lost = false;
        for (read, mut bytes) in pieces {
            let passed = match self.verdict(connection, way, read) {
                Verdict::Lose => {
                    has_lost = true;
                    continue;
                }
                Verdict::Pass if has_lost => return connection.close(),
                Verdict::Pass if bytes.is_empty() => connection.to(way).shutdown(Shutdown::Write),
                Verdict::Pass => {
                    if let (Mode::Forge(said, heard), Way::Answers) = (lock(&self.state).mode, way) {
                        forge(&mut bytes, said, heard);
                    }
                    connection.to(way).write_all(&bytes)
                }
                Verdict::Over => return,
            };
            if passed.is_err() {
                return connection.close();
            }
        }
    }

    /// What is to be done with a piece; waits until that is known.
    fn verdict(&self, connection: &Connection, way: Way, read: Instant) -> Verdict {
        let mut state = lock(&self.state);
        loop {
            let left = match state.mode {
                _ if connection.is_over.load(Ordering::Relaxed) => return Verdict::Over,
                Mode::Swallow => return Verdict::Lose,
                Mode::SwallowAnswers if way == Way::Answers => return Verdict::Lose,
                Mode::Delay(delay) => delay.saturating_sub(read.elapsed()),
                Mode::Pass | Mode::SwallowAnswers | Mode::Refuse | Mode::Forge(..) => Duration::ZERO,
            };
            if left.is_zero() {
                return Verdict::Pass;
            }
            // Not every platform can wait for ever.
            let left = left.min(Duration::from_secs(3600));
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Connection {
    fn read(&self, way: Way, pieces: &Sender<Piece>) {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let length = self.from(way).read(&mut buffer).unwrap_or(0);
            let is_told = pieces.send((Instant::now(), buffer[..length].to_vec())).is_ok();
            if !is_told || length == 0 {
                return;
            }
        }
    }

    fn from(&self, way: Way) -> &TcpStream {
        if way == Way::Requests { &self.client } else { &self.server }
    }

    fn to(&self, way: Way) -> &TcpStream {
        if way == Way::Requests { &self.server } else { &self.client }
    }

    /// Ends the reads and writes of its threads, and so them.
    fn close(&self) {
        self.is_over.store(true, Ordering::Relaxed);
        for stream in [&self.client, &self.server] {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn forge(bytes: &mut [u8], said: &str, heard: &str) {
    for start in 0..(bytes.len() + 1).saturating_sub(said.len()) {
        if bytes[start..].starts_with(said.as_bytes()) {
            bytes[start..start + heard.len()].copy_from_slice(heard.as_bytes());
        }
    }
}
