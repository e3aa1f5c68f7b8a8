//! Users, roles, TLS, and servers that are no etcd, or too old.

use std::net::TcpListener;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use etcd_for_tests::{Proxy, Servers, json};
use tantara::Event;
use tantara_etcd::{Cluster, Error, Options, Tls};

use crate::{LONG, alone, patient, server, until};

fn connect(servers: &Servers, options: Options) -> Result<Cluster, Error> {
    Cluster::connect_with(servers.endpoints(), options)
}

fn with_users() -> Servers {
    let shop = Servers::build().user("ann", "sesame", "/shop/").reader("bob", "sesame", "/shop/");
    shop.user("eve", "sesame", "/other/").token_ttl(2).start()
}

#[test]
fn users_may_do_what_their_roles_permit() {
    let servers = with_users();
    let shop = |user: &str| connect(&servers, patient().namespace("shop").user(user, "sesame")).unwrap();
    let ann = shop("ann").event("door");
    let bob = shop("bob").event("door");
    ann.clear().unwrap();
    assert!(!bob.is_set().unwrap());
    // Waiting requires permission to read only.
    let mut wait = bob.wait_async();
    wait.begun().unwrap();
    ann.pulse().unwrap();
    wait.wait().unwrap();
    let error = bob.set().unwrap_err();
    assert!(error.is_permission_denied() && !error.is_unknown(), "{error}");
    assert!(error.to_string().contains(&servers.endpoints()[0]), "{error}");
    // Another user's namespace.
    let eve = shop("eve");
    let refusals = [
        eve.event("door").is_set().map(drop),
        eve.event("door").set(),
        eve.event("door").wait(),
        eve.event("door").wait_timeout(Duration::from_millis(50)).map(drop),
        eve.event("door").hold().map(drop),
        eve.list().map(drop),
    ];
    for refusal in refusals {
        let error = refusal.unwrap_err();
        assert!(error.is_permission_denied(), "{error}");
    }
    connect(&servers, patient().namespace("other").user("eve", "sesame")).unwrap().event("door").set().unwrap();
}

#[test]
fn a_user_of_one_namespace_may_follow_its_changes() {
    let servers = with_users();
    let cluster = connect(&servers, patient().namespace("shop").user("ann", "sesame")).unwrap();
    let mut changes = cluster.changes().unwrap();
    cluster.event("door").pulse().unwrap();
    let change = changes.next_timeout(LONG).unwrap().expect("the pulse is a change");
    assert_eq!((&*change.name, change.sets, change.is_set), ("door", 1, false));
}

#[test]
fn a_wrong_or_missing_password_is_an_error_at_once() {
    let servers = with_users();
    let wrong = connect(&servers, patient().user("ann", "open")).unwrap_err();
    assert!(wrong.is_permission_denied() && !wrong.is_unreachable(), "{wrong}");
    assert!(wrong.to_string().contains("ann") && wrong.to_string().contains(&servers.endpoints()[0]), "{wrong}");
    assert!(!wrong.to_string().contains("open"), "the password is hidden");
    let nobody = connect(&servers, patient()).unwrap().event("door").set().unwrap_err();
    assert!(nobody.is_permission_denied(), "{nobody}");
    assert!(nobody.to_string().contains("user"), "{nobody}");
    // A password that is not required does no harm.
    assert!(connect(&server(), patient().user("ann", "sesame")).is_ok());
}

#[test]
fn credentials_that_expire_are_renewed_under_a_sleeping_wait() {
    let servers = with_users();
    let cluster = connect(&servers, patient().namespace("shop").user("ann", "sesame")).unwrap();
    let event = cluster.event("door");
    event.clear().unwrap();
    let mut old = event.wait_async();
    old.begun().unwrap();
    // Unused tokens expire after two seconds.
    thread::sleep(Duration::from_secs(5));
    assert!(!event.is_set().unwrap());
    // A new watch on the old stream.
    let mut new = cluster.event("window").wait_async();
    new.begun().unwrap();
    thread::sleep(Duration::from_secs(3));
    event.pulse().unwrap();
    cluster.event("window").pulse().unwrap();
    old.wait().unwrap();
    new.wait().unwrap();
    // A restart of the server invalidates its tokens.
    let mut wait = event.wait_async();
    wait.begun().unwrap();
    servers[0].kill();
    servers[0].start();
    servers.wait_healthy();
    event.pulse().unwrap();
    wait.wait().unwrap();
}

#[test]
fn a_provider_that_blocks_does_not_block_the_drop() {
    let (called, may_return) = (Arc::new(Event::new()), Arc::new(Event::new()));
    let provider = {
        let (called, may_return) = (Arc::clone(&called), Arc::clone(&may_return));
        move || {
            called.set();
            may_return.wait();
            Err::<(String, String), _>("too late")
        }
    };
    let endpoints = server().endpoints();
    let mut connecting = Box::pin(Cluster::connect_with_async(endpoints, Options::new().credentials(provider)));
    assert!(connecting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert!(called.wait_timeout(LONG));
    let dropped = Arc::new(Event::new());
    let dropping = {
        let dropped = Arc::clone(&dropped);
        thread::spawn(move || {
            drop(connecting);
            dropped.set();
        })
    };
    let is_dropped = dropped.wait_timeout(LONG);
    may_return.set();
    dropping.join().unwrap();
    assert!(is_dropped, "the drop waited for the provider");
}

#[test]
fn a_wait_that_may_not_go_on_fails() {
    let servers = with_users();
    let options = patient().namespace("shop").user("bob", "sesame").recheck(Duration::from_millis(300));
    let event = connect(&servers, options).unwrap().event("door");
    let mut wait = event.wait_async();
    wait.begun().unwrap();
    servers.call("auth/user/revoke", &json!({"name": "bob", "role": "bob"})).unwrap();
    let error = wait.wait().unwrap_err();
    assert!(error.is_permission_denied(), "{error}");
}

#[test]
fn tls_with_certificates_of_both_sides() {
    let servers = Servers::build().tls().client_certificates().start();
    let tls = || Tls::new().ca_pem(servers.ca_pem());
    let full = tls().identity_pem(servers.client_cert_pem(), servers.client_key_pem());
    let event = connect(&servers, patient().tls(full.clone())).unwrap().event("door");
    let mut wait = event.wait_async();
    wait.begun().unwrap();
    event.set().unwrap();
    wait.wait().unwrap();
    let short = |options: Options| options.timeout(Duration::from_secs(1));
    // An untrusted server, a client without a certificate, and a client without TLS.
    for options in [patient().tls(Tls::new()), patient().tls(tls()), patient()] {
        let error = connect(&servers, short(options)).unwrap_err();
        assert!(error.is_unreachable(), "{error}");
        assert!(error.to_string().contains(&servers.endpoints()[0]), "{error}");
    }
    let broken = Tls::new().ca_pem("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n");
    let error = connect(&servers, short(patient().tls(broken))).unwrap_err();
    assert!(!error.to_string().is_empty());
    assert!(format!("{:?}", patient().tls(full).user("ann", "sesame")).find("sesame").is_none());
}

#[test]
fn a_server_that_is_too_old_is_named() {
    let server = Servers::one();
    let proxy = Proxy::to(&server.endpoints()[0]);
    proxy.forge("3.4.", "3.3.");
    match Cluster::connect_with(proxy.endpoint(), patient()) {
        Err(error) => {
            assert!(error.is_unsupported(), "{error}");
            assert!(error.to_string().contains("3.3.") && error.to_string().contains(&proxy.endpoint()), "{error}");
        }
        // Versions after 3.4 are not forged.
        Ok(_) => assert!(!format!("{:?}", server.call("maintenance/status", &json!({}))).contains("3.4.")),
    }
}

#[test]
fn what_is_no_etcd_is_unreachable_in_time() {
    // A closed port, a server that sends nothing, and a server of another protocol.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let chatty = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoints =
        ["127.0.0.1:1".to_owned(), silent.local_addr().unwrap().to_string(), chatty.local_addr().unwrap().to_string()];
    thread::spawn(move || {
        for stream in chatty.incoming().take(50) {
            let _ = std::io::Write::write_all(&mut stream.unwrap(), b"SSH-2.0-OpenSSH_9.2\r\n");
        }
    });
    for endpoint in &endpoints {
        let options = patient().timeout(Duration::from_millis(2_500));
        let error = Cluster::connect_with(endpoint, options).unwrap_err();
        assert!(error.is_unreachable() && error.to_string().contains(endpoint), "{error}");
    }
    // One good endpoint is enough.
    let good = server();
    let mut all = endpoints.to_vec();
    all.extend(good.endpoints());
    let cluster = Cluster::connect_with(all, patient().timeout(Duration::from_secs(20))).unwrap();
    assert!(cluster.list().is_ok());
    drop(silent);
}

#[test]
fn external_keys_in_the_namespace_are_ignored() {
    let servers = Servers::one();
    let cluster = connect(&servers, patient().namespace("wild")).unwrap();
    for (key, value) in [
        ("/wild/e/door/l", &b"maybe"[..]),
        ("/wild/e/door/p", b"\xff\xfe"),
        ("/wild/e/door/h/nonsense/more", b""),
        ("/wild/e/../l", b"1"),
        ("/wild/e/a b/l", b"1"),
        ("/wild/e/", b""),
        ("/wild/w/door/x", b"9 9 9"),
        ("/wild/w/door/y", b"1 2 3 4 \x1b[2Jhost"),
        ("/wildlife/e/other/l", b"1"),
    ] {
        servers.put_raw(key, value);
    }
    let entries = cluster.list().unwrap();
    assert_eq!(entries.iter().map(|entry| &*entry.name).collect::<Vec<_>>(), ["door"]);
    assert_eq!(entries[0].waiters.len(), 1);
    assert!(!entries[0].waiters[0].host.contains('\x1b'));
    let door = cluster.event("door");
    assert!(!door.wait_timeout(Duration::from_millis(50)).unwrap_or(true) || door.is_set().unwrap());
    door.set().unwrap();
    assert!(door.is_set().unwrap());
    assert!(alone(&servers).list().unwrap().is_empty());
    until("it can be removed", || door.remove().is_ok());
}
