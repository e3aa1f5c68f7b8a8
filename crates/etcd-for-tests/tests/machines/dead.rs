//! Endpoints that accept connections and never answer, as those of a machine that hangs.

use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use tantara_etcd::{Cluster, Options};

use crate::{LONG, namespace, until};

fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    listener.set_nonblocking(true).unwrap();
    (listener, address)
}

/// Whether the client has not closed it.
fn is_open(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let mut bytes = [0; 4_096];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}

#[test]
fn the_next_endpoint_is_tried_while_one_does_not_answer() {
    let silent = [silent(), silent()];
    let endpoints = silent.each_ref().map(|(_, address)| address.clone());
    thread::spawn(move || Cluster::connect_with(endpoints, Options::new().namespace(namespace()).timeout(LONG)));
    let first = std::cell::RefCell::new(None);
    let accepted = |which: usize| silent[which].0.accept().map(|(stream, _)| stream).ok();
    until("one is tried", || {
        *first.borrow_mut() = [0, 1].into_iter().find_map(|which| Some((which, accepted(which)?)));
        first.borrow().is_some()
    });
    let (which, mut first) = first.into_inner().unwrap();
    until("the other one is tried, too", || accepted(1 - which).is_some());
    assert!(is_open(&mut first), "the first one was given up before");
}

#[test]
fn an_error_says_which_endpoints_were_not_tried() {
    let silent: Vec<(TcpListener, String)> = (0..6).map(|_| silent()).collect();
    let endpoints: Vec<&String> = silent.iter().map(|(_, address)| address).collect();
    let options = Options::new().namespace(namespace()).connect_timeout(Duration::from_millis(100));
    let error = Cluster::connect_with(endpoints, options).unwrap_err().to_string();
    for why in ["has not answered in time", "was not tried"] {
        assert!(error.contains(why), "{error}");
    }
}
