//! What strangers can use up.

use super::strangers::{Stranger, send};
use super::*;

async fn taken(network: &Network) -> u32 {
    let mut count = 0;
    while let Ok(Some(_)) = timeout(Duration::from_millis(1), network.accept_abroad()).await {
        count += 1;
    }
    count
}

#[tokio::test(start_paused = true)]
async fn who_floods_is_held_to_the_rate_and_the_others_get_through() {
    let (dir, board) = (tempfile::tempdir().unwrap(), Switchboard::default());
    let (a, b) = (founder(dir.path(), &board, "a").await, founder(dir.path(), &board, "b").await);
    let flooder = Stranger::new(&board);
    let mut connection = flooder.dial(&a).await.unwrap();
    let mut heard = 0;
    for round in 0..10 {
        for _ in 0..100 {
            send(&*connection, Kind::Tell, b"flood").await;
        }
        heard += taken(&a).await;
        // A new connection is no new allowance.
        if round == 5 {
            connection = flooder.dial(&a).await.unwrap();
        }
    }
    assert!((BURST..BURST + 20).contains(&heard), "{heard}");
    let _heard = listen(&a);
    let answer = b.ask_abroad(&contact(&a).await, vec![1], SOON).await.unwrap();
    assert_eq!(answer.0, [1]);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_takes_is_bounded_and_dropped() {
    let (dir, board) = (tempfile::tempdir().unwrap(), Switchboard::default());
    let a = founder(dir.path(), &board, "a").await;
    let strangers: Vec<_> = (0..4).map(|_| Stranger::new(&board)).collect();
    for stranger in &strangers {
        let connection = stranger.dial(&a).await.unwrap();
        for _ in 0..BURST {
            send(&*connection, Kind::Tell, b"untaken").await;
        }
        // Left open.
        std::mem::forget(connection);
    }
    sleep(MESSAGE * 2).await;
    assert_eq!(a.inner().abroad.room.available_permits(), ROOM - QUEUE * b"untaken".len());
    assert_eq!(taken(&a).await, QUEUE as u32);
    assert_eq!(a.inner().abroad.room.available_permits(), ROOM);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_too_long_is_refused_on_both_sides() {
    let (dir, board) = (tempfile::tempdir().unwrap(), Switchboard::default());
    let (a, b) = (founder(dir.path(), &board, "a").await, founder(dir.path(), &board, "b").await);
    let long = || vec![0; MAX_ABROAD + 1];
    let error = a.tell_abroad(&contact(&b).await, long(), SOON).await.unwrap_err();
    assert!(matches!(error, Error::LongMessage { .. }), "{error}");
    let to_b = contact(&b).await;
    let answer = async {
        let foreign = b.accept_abroad().await.unwrap();
        assert_eq!(foreign.payload.len(), MAX_ABROAD);
        let error = foreign.reply(long(), SOON).await.unwrap_err();
        assert!(matches!(error, Error::LongMessage { .. }), "{error}");
    };
    let ((), asked) = tokio::join!(answer, a.ask_abroad(&to_b, vec![0; MAX_ABROAD], SOON));
    assert!(asked.is_err());

    // Who sends it all the same is parted from, and so is who answers so.
    let stranger = Stranger::new(&board);
    let connection = stranger.dial(&a).await.unwrap();
    send(&*connection, Kind::Tell, &long()).await;
    let closed = timeout(SOON, connection.closed()).await.unwrap();
    assert!(closed.to_string().contains("at most"), "{closed}");
    let connection = stranger.dial(&a).await.unwrap();
    connection.allow(16);
    let to = Contact { node: stranger.link.id(), subgrid: None, addrs: vec![] };
    let answer = async {
        let mut stream = connection.accept().await.unwrap();
        let _ = message::write(&mut stream.send, None, &long()).await;
    };
    let ((), asked) = tokio::join!(answer, a.ask_abroad(&to, vec![1], SOON));
    assert!(matches!(asked, Err(Error::Protocol { .. })), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn those_who_say_nothing_leave_room_for_members() {
    let (dir, board) = (tempfile::tempdir().unwrap(), Switchboard::default());
    let a = founder(dir.path(), &board, "a").await;
    let stranger = Stranger::new(&board);
    let mut silent = Vec::new();
    for _ in 0..MAX_STRANGERS + 36 {
        silent.push(stranger.connect(&a).await);
    }
    let open = || silent.iter().filter(|connection| !connection.is_closed()).count();
    eventually("those beyond are closed", || open() == MAX_STRANGERS).await;
    let b = lone(dir.path(), &board).await;
    b.join(&a.invite(SOON).await.unwrap(), "b").await.unwrap();
    eventually("all are closed", || open() == 0).await;
    stranger.dial(&a).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn connections_make_room_for_new_ones_unless_they_are_used() {
    let (dir, board) = (tempfile::tempdir().unwrap(), Switchboard::default());
    let a = founder(dir.path(), &board, "a").await;
    let mut connections = Vec::new();
    for number in 0..MAX_CONNECTIONS + 50 {
        let stranger = Stranger::new(&board);
        let connection = stranger.dial(&a).await.unwrap();
        let kept = number.min(MAX_CONNECTIONS - 1) + 1;
        eventually("it is taken in", || lines(&a) == kept).await;
        connections.push((connection, stranger));
        sleep(Duration::from_millis(10)).await;
    }
    let closed = connections.iter().take_while(|(connection, _)| connection.is_closed());
    assert_eq!(closed.count(), 50, "those idle for longest");
    assert!(connections[50..].iter().all(|(connection, _)| !connection.is_closed()));

    // All of them have a question that waits for its answer.
    let mut questions = Vec::new();
    for (connection, _) in &connections[50..] {
        let mut stream = connection.open().await.unwrap();
        message::write(&mut stream.send, Some(Kind::Ask), b"?").await.unwrap();
        questions.push((stream, a.accept_abroad().await.unwrap()));
    }
    let late = Stranger::new(&board);
    let refused = match late.dial(&a).await {
        Err(refused) => refused,
        Ok(connection) => timeout(SOON, connection.closed()).await.unwrap().to_string(),
    };
    assert!(refused.contains("too many connections"), "{refused}");
    assert_eq!(lines(&a), MAX_CONNECTIONS);
    drop(questions);

    // Strangers that do not close their connections keep none for ever.
    sleep(Duration::from_secs(90)).await;
    assert_eq!(lines(&a), 0);
    assert!(connections.iter().all(|(connection, _)| connection.is_closed()));
}

#[tokio::test(start_paused = true)]
async fn one_node_has_one_connection_each_way_however_often_it_dials() {
    let (dir, board) = (tempfile::tempdir().unwrap(), Switchboard::default());
    let a = founder(dir.path(), &board, "a").await;
    let stranger = Stranger::new(&board);
    let mut connections = Vec::new();
    for _ in 0..200 {
        connections.push(stranger.dial(&a).await.unwrap());
    }
    let open = || connections.iter().filter(|connection| !connection.is_closed()).count();
    eventually("one is left", || open() == 1 && lines(&a) == 1).await;
    assert!(!connections.last().unwrap().is_closed());
}

#[tokio::test(start_paused = true)]
async fn two_hundred_sub_grids_talk_to_one() {
    let (dir, board) = (tempfile::tempdir().unwrap(), Switchboard::default());
    let hub = founder(dir.path(), &board, "hub").await;
    let _heard = listen(&hub);
    let to = contact(&hub).await;
    let mut others = Vec::new();
    for number in 0..200 {
        others.push(founder(dir.path(), &board, &format!("n{number}")).await);
    }
    for round in 0..5u8 {
        for other in &others {
            assert_eq!(other.ask_abroad(&to, vec![round], SOON).await.unwrap().0, [round]);
        }
        assert_eq!(lines(&hub), 200);
    }
    sleep(Duration::from_secs(90)).await;
    assert_eq!(lines(&hub), 0);
    assert_eq!(hub.inner().abroad.room.available_permits(), ROOM);
    hub.shutdown(SOON).await;
    assert!(hub.inner().tasks.is_empty());
}
