//! A network between a client and a server that can be made to misbehave.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// What the network does, to connections that are there and to new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Everything gets through.
    Passes,
    /// Nothing gets through, and nobody is told.
    Swallows,
    /// What the client says gets through; what the server says is lost, and nobody is told.
    SwallowsAnswers,
    /// Everything gets through, so much later.
    Delays(Duration),
    /// New connections are closed at once; old ones are closed.
    Refuses,
}

/// A proxy on this machine. It ends with this.
#[derive(Debug)]
pub struct Proxy {
    address: String,
    wire: Arc<Wire>,
}

#[derive(Debug)]
struct Wire {
    state: Mutex<State>,
    has_changed: Condvar,
}

#[derive(Debug)]
struct State {
    mood: Mood,
    /// Both ends of every connection.
    streams: Vec<TcpStream>,
    is_over: bool,
}

impl Wire {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn close_all(&mut self) {
        for stream in self.streams.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Proxy {
    /// A proxy before a server.
    ///
    /// # Panics
    ///
    /// If there is no port for it.
    #[must_use]
    pub fn to(server: &str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address").to_string();
        let state = State { mood: Mood::Passes, streams: Vec::new(), is_over: false };
        let wire = Arc::new(Wire { state: Mutex::new(state), has_changed: Condvar::new() });
        let (accepting, server) = (Arc::clone(&wire), server.to_owned());
        thread::spawn(move || accept(&listener, &server, &accepting));
        Proxy { address, wire }
    }

    /// Where it listens.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.address.clone()
    }

    /// Changes what it does.
    pub fn set(&self, mood: Mood) {
        let mut state = self.wire.lock();
        state.mood = mood;
        if mood == Mood::Refuses {
            state.close_all();
        }
        self.wire.has_changed.notify_all();
    }

    /// Closes all connections; new ones are welcome.
    pub fn cut(&self) {
        self.wire.lock().close_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let mut state = self.wire.lock();
        state.is_over = true;
        state.close_all();
        drop(state);
        self.wire.has_changed.notify_all();
        // So that it stops listening.
        let _ = TcpStream::connect(&self.address);
    }
}

fn accept(listener: &TcpListener, server: &str, wire: &Arc<Wire>) {
    for client in listener.incoming() {
        let mut state = wire.lock();
        if state.is_over {
            return;
        }
        let Ok(client) = client else { continue };
        if state.mood == Mood::Refuses {
            continue;
        }
        let Ok(server) = TcpStream::connect(server) else { continue };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let clones = (client.try_clone(), server.try_clone(), client.try_clone(), server.try_clone());
        let (Ok(client_again), Ok(server_again), Ok(kept), Ok(kept_too)) = clones else { continue };
        state.streams.extend([kept, kept_too]);
        drop(state);
        let (there, back) = (Arc::clone(wire), Arc::clone(wire));
        thread::spawn(move || carry(client, server, &there, false));
        thread::spawn(move || carry(server_again, client_again, &back, true));
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, wire: &Wire, is_answer: bool) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let mood = wire.lock().mood;
        match mood {
            Mood::Passes => {}
            Mood::Delays(delay) => thread::sleep(delay),
            Mood::SwallowsAnswers if !is_answer => {}
            // A byte that is missing spoils the rest, so nothing of this connection ever gets through again.
            Mood::Swallows | Mood::SwallowsAnswers => {
                while let Ok(1..) = from.read(&mut buffer) {}
                break;
            }
            Mood::Refuses => break,
        }
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let is_open = wire.lock().mood == Mood::Swallows;
    if !is_open {
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }
}
