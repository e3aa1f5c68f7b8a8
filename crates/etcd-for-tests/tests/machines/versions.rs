//! Other versions of etcd, members that do not serve, changes of membership, slow disks and full
//! ones.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use etcd_for_tests::{Build, Manner, Servers, StandIn, json};
use tantara_etcd::{Cluster, ClusterEvent, Error, Options};

use crate::{LONG, namespace, until};

/// Learnt addresses would bypass the stand-in.
fn options() -> Options {
    Options::new().namespace(namespace()).learn_members(false).timeout(LONG)
}

/// The number of requests of a kind.
fn count(stand_in: &StandIn, path: &str) -> usize {
    stand_in.requests().iter().filter(|request| request.ends_with(path)).count()
}

#[test]
fn users_are_served_by_versions_that_refuse_them_the_status_of_members() {
    let servers = Servers::build().user("ann", "sesame", "/shop/").start();
    let stand_in = StandIn::of(&servers.endpoints()[0]);
    for manner in [Manner::AdminsOnly, Manner::WantsToken, Manner::Pass] {
        stand_in.answer(manner);
        let ann = options().namespace("shop").user("ann", "sesame");
        let event = Cluster::connect_with(stand_in.endpoint(), ann).unwrap().event("door");
        event.clear().unwrap();
        let mut wait = event.wait_async();
        wait.begun().unwrap();
        event.pulse().unwrap();
        assert!(wait.wait_timeout(LONG).unwrap());
        assert!(!event.is_set().unwrap());
        // Without a user, the error is about the user.
        let nobody = Cluster::connect_with(stand_in.endpoint(), options().namespace("shop"));
        let error = nobody.and_then(|cluster| cluster.event("door").set()).unwrap_err();
        assert!(error.is_permission_denied(), "{error}");
    }
}

#[test]
fn a_set_that_follows_the_connection_takes_one_request() {
    let servers = Servers::one();
    let stand_in = StandIn::of(&servers.endpoints()[0]);
    let writes_at_once = || {
        let event = Cluster::connect_with(stand_in.endpoint(), options()).unwrap().event("event");
        let before = (count(&stand_in, "KV/Range"), count(&stand_in, "KV/Txn"));
        event.set().unwrap();
        assert!(event.is_set().unwrap());
        // The set, and the read after it.
        (count(&stand_in, "KV/Range"), count(&stand_in, "KV/Txn")) == (before.0, before.1 + 2)
    };
    // On a busy machine the set may come so late that its slot is read again.
    until("a slot that was read ahead is used", writes_at_once);
}

#[test]
fn a_set_whose_slot_has_changed_since_it_was_read_ahead_is_made_once() {
    let servers = Servers::one();
    let stand_in = StandIn::of(&servers.endpoints()[0]);
    let options = options();
    let is_rejected_first = || {
        let cluster = Cluster::connect_with(stand_in.endpoint(), options.clone()).unwrap();
        let key = |rest: &str| format!("/{}/{rest}", cluster.namespace());
        let slots: Vec<String> = (0..1_024).map(|slot| key(&format!("o/{slot}"))).collect();
        servers.put_raw_each(&slots, "another writer");
        let (sets, transactions) = (servers.puts(&key("e/event/p")), count(&stand_in, "KV/Txn"));
        cluster.event("event").set().unwrap();
        assert_eq!(servers.puts(&key("e/event/p")), sets + 1);
        count(&stand_in, "KV/Txn") == transactions + 2
    };
    // On a busy machine the set may come so late that its slot is read again.
    until("a set is rejected and made again", is_rejected_first);
}

#[test]
fn a_member_that_does_not_serve_is_left_for_another() {
    let servers = Servers::one();
    let real = servers.endpoints().remove(0);
    for manner in [Manner::Learner, Manner::OldLearner, Manner::NotCapable] {
        let stand_in = StandIn::of(&real);
        let endpoints = [stand_in.endpoint(), real.clone()];
        // Each connection begins with a random endpoint.
        for _ in 0..8 {
            stand_in.answer(manner);
            let event = Cluster::connect_with(&endpoints, options()).unwrap().event("event");
            event.set().unwrap();
            assert!(event.is_set().unwrap());
        }
        // A member that becomes such a member.
        stand_in.answer(Manner::Pass);
        let cluster = Cluster::connect_with([stand_in.endpoint(), "127.0.0.1:1".to_owned()], options()).unwrap();
        let event = cluster.event(format!("{manner:?}"));
        let mut wait = event.wait_async();
        wait.begun().unwrap();
        // The next request is the `set`.
        until("it is watched", || servers.watchers() == 1);
        stand_in.answer(manner);
        let setting = {
            let event = event.clone();
            thread::spawn(move || event.set())
        };
        until("the member is left", || cluster.outage().is_some());
        stand_in.answer(Manner::Pass);
        setting.join().unwrap().unwrap();
        assert!(wait.wait_timeout(LONG).unwrap());
        // There is no other member.
        stand_in.answer(manner);
        let alone = options().connect_timeout(Duration::from_secs(1));
        let error = Cluster::connect_with(stand_in.endpoint(), alone).unwrap_err();
        assert!(error.is_unreachable(), "{error}");
        assert!(manner == Manner::NotCapable || error.to_string().contains("learner"), "{error}");
    }
}

#[test]
fn a_real_learner_among_the_endpoints_does_no_harm() {
    let mut servers = Servers::one();
    servers.grow_learner();
    for _ in 0..8 {
        let event = Cluster::connect_with(servers.endpoints(), options()).unwrap().event("event");
        event.set().unwrap();
        assert!(event.wait_timeout(LONG).unwrap());
    }
}

#[test]
fn a_slow_answer_is_waited_for_and_its_request_is_sent_once() {
    let servers = Servers::one();
    let stand_in = StandIn::of(&servers.endpoints()[0]);
    let event = Cluster::connect_with(stand_in.endpoint(), options()).unwrap().event("event");
    event.set().unwrap();
    let before = (count(&stand_in, "KV/Txn"), count(&stand_in, "Auth/Authenticate"));
    stand_in.answer(Manner::Slow(Duration::from_secs(2)));
    event.clear().unwrap();
    assert_eq!(count(&stand_in, "KV/Txn"), before.0 + 1);
    assert!(count(&stand_in, "Health/Check") > 1, "the member was probed");
    // A slow answer to the last read of a wait is no error.
    assert!(!event.wait_timeout(Duration::from_millis(50)).unwrap());
    stand_in.answer(Manner::Pass);
    assert!(!event.is_set().unwrap());
}

#[test]
fn a_set_is_one_commit() {
    let servers = Servers::one();
    let stand_in = StandIn::of(&servers.endpoints()[0]);
    let revision = servers.revision();
    let cluster = Cluster::connect_with(stand_in.endpoint(), options()).unwrap();
    cluster.event("event").set().unwrap();
    drop(cluster);
    assert_eq!(servers.revision(), revision + 1);
    assert!(!stand_in.requests().iter().any(|path| path.contains("/etcdserverpb.Lease/")), "a lease takes a commit");
}

#[test]
fn requests_survive_slow_disks() {
    if !Build::can_delay_disks() {
        println!("skipped: strace may not trace here");
        return;
    }
    let servers = Servers::build().members(3).slow_disks(Duration::from_millis(600)).start();
    let event = Cluster::connect_with(servers.endpoints(), options()).unwrap().event("event");
    for _ in 0..2 {
        let mut wait = event.wait_async();
        wait.begun().unwrap();
        event.pulse().unwrap();
        assert!(wait.wait_timeout(LONG).unwrap());
    }
    let puts: Vec<_> = servers.keys("/").into_iter().filter(|(key, _)| key.ends_with("/p")).collect();
    assert_eq!(servers.puts(&puts[0].0), 2, "each was made once");
}

const MEMBER_LISTS: &str = "grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"MemberList\"";

#[test]
fn a_wait_survives_that_all_endpoints_are_replaced() {
    let mut servers = Servers::one();
    let stand_in = StandIn::of(&servers.endpoints()[0]);
    let options = Options::new().namespace(namespace()).recheck(Duration::from_millis(200)).timeout(LONG);
    let event = Cluster::connect_with(stand_in.endpoint(), options.clone()).unwrap().event("event");
    let mut wait = event.wait_async();
    wait.begun().unwrap();
    let new = [servers.grow(), servers.grow()];
    // At any member: the client may have left the stand-in for a learnt address.
    let asked = || -> u64 { (0..3).map(|index| servers[index].metric(MEMBER_LISTS)).sum() };
    let before = asked();
    until("it has asked twice", || asked() > before + 1);
    servers.remove(0);
    servers.wait_healthy();
    let other = new.map(|index| servers[index].endpoint());
    Cluster::connect_with(other, options).unwrap().event("event").pulse().unwrap();
    assert!(wait.wait_timeout(LONG).unwrap());
    event.set().unwrap();
}

#[test]
fn wrong_addresses_of_members_do_no_harm() {
    let (servers, strangers) = (Servers::one(), Servers::one());
    let stand_in = StandIn::of(&servers.endpoints()[0]);
    let stranger = format!("http://{}", strangers.endpoints()[0]);
    let long = format!("http://{}:1", "a".repeat(100_000));
    let wrong = ["http://127.0.0.1:1", "http://192.0.2.1:2379", "http://[::]:2379", "nonsense", "", &long, &stranger];
    stand_in.claim_members_at(&wrong);
    let options = Options::new().namespace(namespace()).timeout(LONG);
    let cluster = Cluster::connect_with(stand_in.endpoint(), options).unwrap();
    let event = cluster.event("event");
    let mut wait = event.wait_async();
    wait.begun().unwrap();
    servers[0].kill();
    // Long enough to try every address.
    until("the outage has lasted", || cluster.outage().is_some_and(|outage| outage.lasted > Duration::from_secs(5)));
    let outage = cluster.outage().unwrap();
    assert!(outage.reason.is_unreachable(), "{}", outage.reason);
    assert!(outage.reason.to_string().contains(&stand_in.endpoint()), "{}", outage.reason);
    servers[0].start();
    servers.wait_healthy();
    event.set().unwrap();
    assert!(wait.wait_timeout(LONG).unwrap());
    assert!(cluster.outage().is_none());
    assert!(strangers.keys("/").is_empty(), "another cluster is not used");
}

#[test]
fn a_request_that_was_lost_with_its_leader_is_sent_again() {
    let servers = Servers::three();
    let follower = servers.followers()[0];
    // The follower forwards the request to a leader that is stopped.
    let event = Cluster::connect_with(servers[follower].endpoint(), options()).unwrap().event("event");
    event.clear().unwrap();
    let leader = servers.leader();
    servers[leader].pause();
    event.set().unwrap();
    assert!(event.is_set().unwrap());
    servers[leader].resume();
}

#[test]
fn a_full_database_refuses_writes_and_answers_reads() {
    let servers = Servers::build().flag("--quota-backend-bytes=2000000").start();
    let cluster = Cluster::connect_with(servers.endpoints(), options()).unwrap();
    let (set, unset) = (cluster.event("set"), cluster.event("unset"));
    set.set().unwrap();
    unset.clear().unwrap();
    // Small values, to exceed the quota: from then on 3.5.0 to 3.5.6 refuse reads in transactions.
    let fill = json!({"key": "Zg==", "value": "eHh4eHh4".repeat(1_700)});
    until("it is full", || servers.call("kv/put", &fill).is_err_and(|error| error.contains("space exceeded")));
    assert!(set.is_set().unwrap() && !unset.is_set().unwrap());
    assert!(set.wait_timeout(LONG).unwrap());
    assert!(!unset.wait_timeout(Duration::from_millis(50)).unwrap(), "the cluster says so");
    assert!(tantara::any([&unset, &set]).try_wait_timeout(LONG).unwrap().is_some());
    assert_eq!(cluster.list().unwrap().len(), 2);
    let error = unset.set().unwrap_err();
    assert!(error.to_string().contains("database is full") && !error.is_unknown(), "{error}");
}

#[test]
fn a_changed_password_is_asked_for_again_under_a_sleeping_wait() {
    let servers = Servers::build().user("ann", "sesame", "/shop/").start();
    let password = Arc::new(Mutex::new("sesame".to_owned()));
    let ann = {
        let password = Arc::clone(&password);
        options()
            .namespace("shop")
            .credentials(move || Ok::<_, std::io::Error>(("ann".to_owned(), password.lock().unwrap().clone())))
    };
    let cluster = Cluster::connect_with(servers.endpoints(), ann.clone()).unwrap();
    let event = cluster.event("door");
    let mut wait = event.wait_async();
    wait.begun().unwrap();
    servers.call("auth/user/changepw", &json!({"name": "ann", "password": "open"})).unwrap();
    // A restart invalidates all tokens.
    servers[0].kill();
    servers[0].start();
    servers.wait_healthy();
    let refused = || cluster.outage().is_some_and(|outage| outage.reason.to_string().contains("cannot log in"));
    until("the old password is refused", refused);
    let text = cluster.outage().unwrap().reason.to_string();
    assert!(text.contains("ann") && text.contains("password") && !text.contains("sesame"), "{text}");
    // A new connection fails at once.
    let error = Cluster::connect_with(servers.endpoints(), ann).unwrap_err();
    assert!(error.is_permission_denied(), "{error}");
    "open".clone_into(&mut password.lock().unwrap());
    event.set().unwrap();
    assert!(wait.wait_timeout(LONG).unwrap());
}

/// Waits in a thread, without a timeout, so that no last read releases the wait.
fn sleeper(event: &ClusterEvent) -> thread::JoinHandle<Result<(), Error>> {
    let mut wait = event.wait_async();
    wait.begun().unwrap();
    thread::spawn(move || wait.wait())
}

/// Without the periodic reads.
fn without_rechecks() -> Options {
    options().recheck(Duration::from_secs(86_400))
}

#[test]
fn a_watch_that_is_refused_because_the_token_has_expired_begins_on_a_new_stream() {
    let servers = Servers::one();
    let stand_in = StandIn::of(&servers.endpoints()[0]);
    let cluster = Cluster::connect_with(stand_in.endpoint(), without_rechecks()).unwrap();
    let other = Cluster::connect_with(servers.endpoints(), options().namespace(cluster.namespace())).unwrap();
    let (old, new) = (sleeper(&cluster.event("old")), cluster.event("new"));
    until("the stream is open", || servers.watchers() == 1);
    stand_in.answer(Manner::ExpiredStreams);
    let new = sleeper(&new);
    until("it is refused", || stand_in.refused_watches() > 0);
    other.event("new").pulse().unwrap();
    other.event("old").pulse().unwrap();
    until("both are released", || old.is_finished() && new.is_finished());
    old.join().unwrap().unwrap();
    new.join().unwrap().unwrap();
}

#[test]
fn a_watch_that_is_refused_for_good_is_requested_less_and_less_often_and_its_event_is_read() {
    let servers = Servers::one();
    let stand_in = StandIn::of(&servers.endpoints()[0]);
    stand_in.answer(Manner::Unwatchable("/refused/"));
    let cluster = Cluster::connect_with(stand_in.endpoint(), without_rechecks()).unwrap();
    let other = Cluster::connect_with(servers.endpoints(), options().namespace(cluster.namespace())).unwrap();
    let watched = sleeper(&cluster.event("watched"));
    let began = Instant::now();
    let refused = sleeper(&cluster.event("refused"));
    until("it is refused", || stand_in.refused_watches() > 0);
    thread::sleep(Duration::from_secs(5));
    let (count, lasted) = (stand_in.refused_watches(), began.elapsed());
    // Some pauses are shorter than the limit; then the shortest one is an eighth of a second.
    let most = 10 + lasted.as_millis() as usize / 125;
    assert!(count <= most, "refused {count} times in {lasted:?}");
    for name in ["refused", "watched"] {
        other.event(name).pulse().unwrap();
    }
    until("both are released", || watched.is_finished() && refused.is_finished());
    watched.join().unwrap().unwrap();
    refused.join().unwrap().unwrap();
    // `Changes` list the events instead.
    stand_in.answer(Manner::Unwatchable("/e/"));
    let mut changes = cluster.changes().unwrap();
    other.event("watched").pulse().unwrap();
    assert_eq!(changes.next_timeout(LONG).unwrap().unwrap().sets, 1);
}

#[test]
fn a_quiet_watch_whose_progress_is_not_reported_stays_open() {
    let servers = Servers::one();
    let stand_in = StandIn::of(&servers.endpoints()[0]);
    stand_in.answer(Manner::NoProgress);
    let cluster = Cluster::connect_with(stand_in.endpoint(), without_rechecks()).unwrap();
    let mut changes = cluster.changes().unwrap();
    let waits = sleeper(&cluster.event("event"));
    until("both are watched", || servers.watchers() == 2);
    // A silent member is noticed within half of this.
    thread::sleep(Duration::from_secs(15));
    assert!(cluster.outage().is_none());
    assert_eq!((count(&stand_in, "Watch/Watch"), servers.watchers()), (2, 2));
    cluster.event("event").pulse().unwrap();
    until("it is released", || waits.is_finished());
    waits.join().unwrap().unwrap();
    assert_eq!(changes.next_timeout(LONG).unwrap().unwrap().sets, 1);
}

#[test]
fn a_moment_at_which_an_event_was_unset_is_read_until_that_succeeds() {
    let servers = Servers::one();
    let stand_in = StandIn::of(&servers.endpoints()[0]);
    let options = without_rechecks().timeout(Duration::from_secs(1)).connect_timeout(LONG);
    let cluster = Cluster::connect_with(stand_in.endpoint(), options).unwrap();
    let other = self::options().namespace(cluster.namespace());
    let other = Cluster::connect_with(servers.endpoints(), other).unwrap().event("event");
    other.set().unwrap();
    let mut wait = cluster.event("event").wait_unset_async();
    wait.begun().unwrap();
    let waits = thread::spawn(move || wait.wait());
    until("it is watched", || servers.watchers() == 1);
    // The watch goes on, and reads are not answered in time.
    stand_in.answer(Manner::Slow(LONG));
    let before = count(&stand_in, "KV/Txn");
    other.clear().unwrap();
    other.set().unwrap();
    until("the moment is read", || count(&stand_in, "KV/Txn") > before);
    thread::sleep(Duration::from_secs(3));
    stand_in.answer(Manner::Pass);
    until("it is released", || waits.is_finished());
    waits.join().unwrap().unwrap();
}

#[test]
fn a_record_of_a_wait_that_cannot_be_written_is_written_later() {
    let servers = Servers::one();
    let stand_in = StandIn::of(&servers.endpoints()[0]);
    let options = without_rechecks().timeout(Duration::from_secs(1)).connect_timeout(LONG).record_waits(true);
    let cluster = Cluster::connect_with(stand_in.endpoint(), options).unwrap();
    let other = self::options().namespace(cluster.namespace());
    let other = Cluster::connect_with(servers.endpoints(), other).unwrap().event("event");
    let mut wait = cluster.event("event").wait_async();
    wait.begun().unwrap();
    // In a tenth of a second the wait is recorded.
    stand_in.answer(Manner::Slow(10 * LONG));
    thread::sleep(Duration::from_secs(3));
    stand_in.answer(Manner::Pass);
    until("it is recorded", || other.waiters().unwrap().len() == 1);
    // Nor does a record stay that could not be deleted.
    stand_in.answer(Manner::Slow(10 * LONG));
    drop(wait);
    thread::sleep(Duration::from_secs(3));
    stand_in.answer(Manner::Pass);
    until("the record is deleted", || other.waiters().unwrap().is_empty());
}

#[test]
fn the_removal_of_an_event_ends_all_its_holds() {
    let servers = Servers::one();
    let stand_in = StandIn::of(&servers.endpoints()[0]);
    let cluster = Cluster::connect_with(stand_in.endpoint(), options().timeout(Duration::from_secs(12))).unwrap();
    // It does not find out by itself.
    let holder = without_rechecks().namespace(cluster.namespace());
    let holder = Cluster::connect_with(servers.endpoints(), holder).unwrap();
    let hold = || holder.event("event").hold().unwrap();
    let event = cluster.event("event");
    // One after the other they would take longer than a request may.
    let holds: Vec<_> = (0..12).map(|_| hold()).collect();
    stand_in.answer(Manner::SlowRevokes(Duration::from_secs(2)));
    assert!(event.remove().unwrap());
    holds.iter().for_each(|hold| assert!(hold.lost().wait_timeout(LONG)));
    // A holder that cannot be told finds out by itself. The event is removed, and no error says otherwise.
    let looks = options().namespace(cluster.namespace()).hold_ttl(Duration::from_secs(2));
    let looks = Cluster::connect_with(servers.endpoints(), looks.recheck(Duration::from_millis(200))).unwrap();
    for method in ["LeaseRevoke", "KV/Range"] {
        let hold = looks.event("event").hold().unwrap();
        stand_in.answer(Manner::Refuses(method));
        assert!(event.remove().unwrap());
        assert!(event.is_set().unwrap_err().is_removed() && hold.lost().wait_timeout(LONG));
        stand_in.answer(Manner::Pass);
    }
    // A hold that begins between the read of the event and its removal.
    stand_in.answer(Manner::Slow(Duration::from_millis(700)));
    let ends_a_new_hold = || {
        let old = hold();
        let before = count(&stand_in, "KV/Txn");
        let removing = {
            let event = event.clone();
            thread::spawn(move || event.remove())
        };
        // The first one reads the event.
        until("it is being removed", || count(&stand_in, "KV/Txn") > before + 1);
        let new = hold();
        assert!(removing.join().unwrap().unwrap());
        assert!(old.lost().wait_timeout(LONG));
        // On a busy machine the removal may come first.
        let was_removed = !holder.event("event").is_set().unwrap();
        assert!(!was_removed || new.lost().wait_timeout(LONG));
        was_removed
    };
    until("a new hold is removed", ends_a_new_hold);
}

#[test]
fn a_hold_whose_key_is_gone_is_lost() {
    let servers = Servers::one();
    let options = options().hold_ttl(Duration::from_secs(2)).recheck(Duration::from_millis(200));
    let cluster = Cluster::connect_with(servers.endpoints(), options).unwrap();
    let [kept, lost] = ["kept", "lost"].map(|name| cluster.event(name).hold().unwrap());
    servers.delete_prefix(&format!("/{}/e/lost/h/", cluster.namespace()));
    assert!(lost.lost().wait_timeout(LONG));
    assert!(!kept.is_lost() && cluster.event("kept").is_set().unwrap());
    until("its lease has ended", || servers.leases() == 1);
}

#[test]
fn a_list_ends_where_a_server_has_no_further_key_and_says_that_there_are_more() {
    let servers = Servers::one();
    let stand_in = StandIn::of(&servers.endpoints()[0]);
    let cluster = Cluster::connect_with(stand_in.endpoint(), options()).unwrap();
    for manner in [Manner::EmptyPages, Manner::SamePages] {
        stand_in.answer(manner);
        let cluster = cluster.clone();
        let listing = thread::spawn(move || cluster.list());
        until("the list ends", || listing.is_finished());
        assert!(listing.join().unwrap().unwrap().is_empty());
    }
}
