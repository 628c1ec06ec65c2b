//! Asking to be let in, and putting out.

use std::time::Duration;

use phantom_net::member::JoinRefusal;
use phantom_net::{Asked, Asking, Error, Network, PeerState};

use crate::common::{Clock, SOON, config, sees_all, start, start_with, two, until};

async fn ask(node: &Network, member: &Network, name: &str) -> Result<Asking, Error> {
    match node.ask(member.id(), &member.addrs().await, name).await? {
        Asked::Waits(asking) => Ok(*asking),
        Asked::Joined(_) => panic!("nobody has accepted {name}"),
    }
}

fn refusal(outcome: Result<impl Sized, Error>) -> JoinRefusal {
    match outcome {
        Err(Error::Refused { refusal, .. }) => refusal,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was let in"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_shows_the_code_that_is_shown_there_and_comes_in_when_accepted() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::new());
    let (a, b) = two(dir.path(), &clock).await;
    let c = start(&dir.path().join("c"), &clock).await;
    let asking = ask(&c, &a, "c").await.unwrap();
    let request = &a.requests()[0];
    assert_eq!((request.code, request.name.as_str()), (asking.code(), "c"));
    assert_eq!(asking.asked(), "a");
    assert!(request.from.is_some());
    assert_eq!(a.accept_request(asking.code()).await.unwrap(), "c");
    let membership = c.answered(asking).await.unwrap();
    assert_eq!(membership.subgrid(), a.membership().unwrap().subgrid());
    until(&c, "all are connected", || sees_all(&c, 2)).await;
    until(&b, "all are connected", || sees_all(&b, 2)).await;
    assert!(a.requests().is_empty(), "nobody waits any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_that_is_shown_can_be_accepted_at_once() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::new());
    let (a, _b) = two(dir.path(), &clock).await;
    for name in ["c", "d", "e", "f", "g", "h", "i", "j"] {
        let joiner = start(&dir.path().join(name), &clock).await;
        let asking = ask(&joiner, &a, name).await.unwrap();
        let shown: Vec<_> = a.requests().iter().map(|request| request.code).collect();
        assert!(shown.contains(&asking.code()), "{}, and there {shown:?}", asking.code());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_denied_hears_it_and_a_wrong_code_lets_nobody_in() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::new());
    let (a, _b) = two(dir.path(), &clock).await;
    let c = start(&dir.path().join("c"), &clock).await;
    let asking = ask(&c, &a, "c").await.unwrap();
    until(&a, "a request", || !a.requests().is_empty()).await;
    let other = if asking.code().to_string() == "000 000" { "000 001" } else { "000 000" };
    let wrong = a.accept_request(other.parse().unwrap()).await.unwrap_err().to_string();
    assert!(wrong.contains(other) && wrong.contains("phantom requests"), "{wrong}");
    a.deny_request(asking.code()).unwrap();
    assert_eq!(refusal(c.answered(asking).await), JoinRefusal::Denied);
    assert_eq!(refusal(ask(&c, &a, "c").await), JoinRefusal::Denied);
    assert!(c.membership().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_without_the_right_sends_on_and_a_delegate_lets_in() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::new());
    let (a, b) = two(dir.path(), &clock).await;
    assert!(!b.membership().unwrap().may_accept);
    let said = b.invite(SOON).await.unwrap_err().to_string();
    assert!(said.contains("do it on a") && said.contains("phantom delegate"), "{said}");
    let c = start(&dir.path().join("c"), &clock).await;
    // Asked is b, which knows that a may.
    let asking = ask(&c, &b, "c").await.unwrap();
    assert_eq!(asking.asked(), "a");
    drop(asking);

    a.delegate(b.id()).await.unwrap();
    until(&b, "it knows its right", || b.membership().unwrap().may_accept).await;
    let asking = ask(&c, &b, "c").await.unwrap();
    assert_eq!(asking.asked(), "b");
    until(&b, "a request", || !b.requests().is_empty()).await;
    b.accept_request(asking.code()).await.unwrap();
    c.answered(asking).await.unwrap();
    until(&a, "the delegate's word counts", || sees_all(&a, 2)).await;

    // The right is taken back: whom it has let in stays, by the key's word.
    let mut changes = c.member_changes();
    changes.mark_unchanged();
    a.withdraw(b.id()).await.unwrap();
    until(&b, "it has no right", || !b.membership().unwrap().may_accept).await;
    until(&c, "c has the key's certificate", || {
        let own = c.membership().unwrap().certificate;
        own.seal().delegation().is_none()
    })
    .await;
    until(&a, "c stays", || sees_all(&a, 2)).await;
    assert!(b.remove(c.id()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_removed_is_parted_from_by_all_and_may_come_back() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::new());
    let (a, b) = two(dir.path(), &clock).await;
    let c = start(&dir.path().join("c"), &clock).await;
    let token = a.invite(SOON).await.unwrap();
    c.join(&token, "c").await.unwrap();
    until(&b, "all are connected", || sees_all(&b, 2)).await;
    until(&c, "all are connected", || sees_all(&c, 2)).await;

    let began = std::time::Instant::now();
    a.remove(c.id()).await.unwrap();
    until(&c, "it hears of it", || c.membership().is_none()).await;
    until(&b, "all know it", || !b.members().iter().any(|member| member.node() == c.id())).await;
    until(&b, "the connection is closed", || b.peer_state(c.id()) != PeerState::Connected).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let said = c.standing().unwrap_err().to_string();
    assert!(said.contains("removed") && said.contains("phantom up"), "{said}");
    assert!(c.connect(b.id(), Duration::from_millis(500)).await.is_err());

    // Also after all have been started again.
    for node in [a, b, c] {
        node.shutdown(SOON).await;
    }
    let a = start(&dir.path().join("a"), &clock).await;
    let c = start(&dir.path().join("c"), &clock).await;
    assert!(c.membership().is_none());
    assert_eq!(a.members().len(), 2);
    let asking = ask(&c, &a, "c").await.unwrap();
    until(&a, "a request", || !a.requests().is_empty()).await;
    a.accept_request(asking.code()).await.unwrap();
    c.answered(asking).await.unwrap();
    until(&c, "it is back", || c.peer_state(a.id()) == PeerState::Connected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_the_key_cannot_be_shut_out_by_a_delegate() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::new());
    let (a, b) = two(dir.path(), &clock).await;
    a.delegate(b.id()).await.unwrap();
    until(&b, "it knows its right", || b.membership().unwrap().may_accept).await;
    until(&b, "they are connected", || sees_all(&b, 1)).await;
    let before = a.membership().unwrap().certificate;
    b.remove(a.id()).await.unwrap();
    until(&a, "it has renewed itself", || a.membership().unwrap().certificate != before).await;
    until(&b, "b takes it back", || sees_all(&b, 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_survives_a_lost_connection_and_acceptance_meanwhile() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::new());
    let a = start(&dir.path().join("a"), &clock).await;
    a.found("a").await.unwrap();
    let c = start(&dir.path().join("c"), &clock).await;
    let asking = ask(&c, &a, "c").await.unwrap();
    let code = asking.code();
    until(&a, "a request", || !a.requests().is_empty()).await;
    // The first asker is gone without a word, as a machine that sleeps.
    let waiting = tokio::spawn({
        let c = c.clone();
        async move { c.answered(asking).await }
    });
    a.network_changed().await;
    c.network_changed().await;
    a.accept_request(code).await.unwrap();
    tokio::time::timeout(SOON, waiting).await.unwrap().unwrap().unwrap();
    // And who was accepted while nobody waited is let in when it asks again.
    let d = start(&dir.path().join("d"), &clock).await;
    let asking = ask(&d, &a, "d").await.unwrap();
    let code = asking.code();
    until(&a, "a request", || !a.requests().is_empty()).await;
    drop(asking);
    a.accept_request(code).await.unwrap();
    assert!(matches!(d.ask(a.id(), &a.addrs().await, "d").await, Ok(Asked::Joined(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_requests_is_bounded_and_members_are_served_meanwhile() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::new());
    let (a, b) = two(dir.path(), &clock).await;
    let mut crowded = 0;
    let mut open = Vec::new();
    for number in 0..12 {
        let c = start(&dir.path().join(format!("c{number}")), &clock).await;
        match ask(&c, &a, "c").await {
            Ok(asking) => open.push((c, asking)),
            Err(error) => {
                assert_eq!(refusal(Err::<(), _>(error)), JoinRefusal::Crowded);
                crowded += 1;
            }
        }
    }
    assert!(crowded > 0 && !open.is_empty(), "{crowded} of 12 were turned away");
    assert!(a.requests().len() <= open.len());
    b.connect(a.id(), SOON).await.unwrap();
    // A token is the way in that is always open.
    let d = start(&dir.path().join("d"), &clock).await;
    d.join(&a.invite(SOON).await.unwrap(), "d").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_an_hour_off_is_refused_with_both_times() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::new());
    let (a, _b) = two(dir.path(), &clock).await;
    let late = Clock::new();
    late.advance(3600);
    let c = start_with(config(&dir.path().join("c"), &late)).await;
    let said = ask(&c, &a, "c").await.err().unwrap().to_string();
    assert!(said.contains("the clocks differ by 3600 s"), "{said}");
    assert!(a.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_before_its_end_by_who_may() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::new());
    let (a, b) = two(dir.path(), &clock).await;
    until(&b, "they are connected", || sees_all(&b, 1)).await;
    let before = b.membership().unwrap().certificate.terms().expires;
    a.shutdown(SOON).await;
    // Ten months later.
    clock.advance(310 * 24 * 3600);
    let _a = start(&dir.path().join("a"), &clock).await;
    until(&b, "its certificate is renewed", || {
        b.membership().unwrap().certificate.terms().expires > before
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_policy_counts_everywhere_also_for_who_comes_later_and_who_is_alone() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::new());
    let (a, b) = two(dir.path(), &clock).await;
    until(&b, "they are connected", || sees_all(&b, 1)).await;
    assert!(a.policy().is_none());
    a.decree("one".to_owned(), 0).await.unwrap();
    let stale = a.decree("other".to_owned(), 0).await.unwrap_err().to_string();
    assert!(stale.contains("version 1 counts by now"), "{stale}");
    a.decree("two".to_owned(), 1).await.unwrap();
    until(&b, "b knows it", || b.policy().is_some_and(|policy| policy.text() == "two")).await;
    assert!(matches!(b.decree("mine".to_owned(), 2).await, Err(Error::NotHolder)));

    let c = start(&dir.path().join("c"), &clock).await;
    c.join(&a.invite(SOON).await.unwrap(), "c").await.unwrap();
    until(&c, "c knows it", || c.policy().is_some_and(|policy| policy.version() == 2)).await;

    for node in [a, b] {
        node.shutdown(SOON).await;
    }
    let b = start(&dir.path().join("b"), &clock).await;
    assert_eq!(b.policy().unwrap().text(), "two");
    assert!(b.policies().await.unwrap().len() <= 2);
}
