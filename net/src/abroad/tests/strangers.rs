//! What strangers show, and what becomes of it.

use super::*;

/// Somebody with a link and a certificate, who does as he likes.
pub(super) struct Stranger {
    pub link: MemoryLink,
    pub certificate: Certificate,
}

fn terms(node: NodeId) -> Terms {
    Terms {
        subgrid: SubgridId([0; 32]),
        node,
        name: "stranger".to_owned(),
        not_before: NOW,
        expires: NOW + 3600,
        serial: 1,
    }
}

impl Stranger {
    /// With a sub-grid of its own, which anybody can make.
    pub fn new(board: &Switchboard) -> Self {
        let node = NodeKey::ephemeral().id();
        let certificate = Certificate::issue(&SubgridKey::ephemeral(), terms(node)).unwrap();
        Self { link: board.link(node), certificate }
    }

    pub async fn connect(&self, to: &Network) -> Arc<dyn Connection> {
        self.link.dial(to.id(), &to.addrs().await, Protocol::Abroad).await.unwrap()
    }

    /// Connects and shows the certificate; or why that was refused.
    pub async fn dial(&self, to: &Network) -> Result<Arc<dyn Connection>, String> {
        let connection = self.connect(to).await;
        let hello = Hello { certificate: self.certificate.clone() };
        let mut stream = connection.open().await.unwrap();
        write_frame(&mut stream, &hello, MAX_HELLO).await.unwrap();
        match read_frame::<Hello>(&mut stream, MAX_HELLO).await {
            Ok(hello) => {
                assert_eq!(hello.certificate.terms().node, to.id());
                Ok(connection)
            }
            Err(_) => Err(connection.closed().await.to_string()),
        }
    }
}

/// Sends one message and ends its stream.
pub(super) async fn send(connection: &dyn Connection, kind: Kind, payload: &[u8]) {
    let mut stream = connection.open().await.unwrap();
    // It may be dropped before it was read.
    let _ = message::write(&mut stream.send, Some(kind), payload).await;
}

/// `certificate` with the sub-grid named there replaced.
fn renamed(certificate: &Certificate, subgrid: SubgridId) -> Certificate {
    let mut bytes = postcard::to_stdvec(certificate).unwrap();
    bytes[..32].copy_from_slice(&subgrid.0);
    let renamed: Certificate = postcard::from_bytes(&bytes).unwrap();
    assert_eq!(renamed.terms().subgrid, subgrid);
    renamed
}

/// Certificates that do not hold for `node`, and a word of why. `ours` is somebody's sub-grid.
fn false_ones(node: NodeId, ours: SubgridId) -> Vec<(Certificate, &'static str)> {
    let key = SubgridKey::ephemeral();
    let issue = |terms| Certificate::issue(&key, terms).unwrap();
    let other = NodeKey::ephemeral();
    let foreign = Delegation::issue(&SubgridKey::ephemeral(), other.id(), 1);
    let by_foreign = Authority::Delegate(other.clone(), foreign);
    let by_foreign = Certificate::issue(by_foreign, terms(node)).unwrap();
    vec![
        (renamed(&issue(terms(node)), ours), "not signed by"),
        (renamed(&issue(terms(node)), SubgridKey::ephemeral().id()), "not signed by"),
        (renamed(&by_foreign, key.id()), "not signed by"),
        (issue(Terms { expires: NOW, ..terms(node) }), "expired"),
        (issue(Terms { not_before: NOW + 301, ..terms(node) }), "holds only from"),
        (issue(terms(other.id())), "certificate is that of node"),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_false_certificate_is_refused_by_who_is_dialled() {
    let (dir, board) = (tempfile::tempdir().unwrap(), Switchboard::default());
    let a = founder(dir.path(), &board, "a").await;
    let mut heard = listen(&a);
    let honest = Stranger::new(&board);
    let connection = honest.dial(&a).await.unwrap();
    send(&*connection, Kind::Tell, b"honest").await;
    assert_eq!(heard.recv().await.unwrap().2, b"honest");
    let node = honest.link.id();
    for (certificate, why) in false_ones(node, subgrid(&a)) {
        let stranger = Stranger { link: board.link(node), certificate };
        let refused = stranger.dial(&a).await.map(drop).unwrap_err();
        assert!(refused.contains(why), "{refused}, not {why}");
    }
    assert!(heard.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_false_certificate_is_refused_by_who_dials() {
    let (dir, board) = (tempfile::tempdir().unwrap(), Switchboard::default());
    let a = founder(dir.path(), &board, "a").await;
    let node = NodeKey::ephemeral().id();
    let link = board.link(node);
    let to = Contact { node, subgrid: None, addrs: link.addrs().await };
    for (certificate, why) in false_ones(node, subgrid(&a)) {
        let answer = async {
            let connection = link.accept().await.unwrap();
            let mut stream = connection.accept().await.unwrap();
            read_frame::<Hello>(&mut stream, MAX_HELLO).await.unwrap();
            write_frame(&mut stream, &Hello { certificate }, MAX_HELLO).await.unwrap();
            let closed = connection.closed().await;
            let refused = Some(CloseCode::NotAdmitted);
            assert!(
                matches!(&closed, LinkError::ClosedByPeer { code, .. } if *code == refused),
                "{closed}"
            );
            // Nothing was said to who could not prove anything.
            assert!(connection.accept().await.is_err());
        };
        let (told, ()) = tokio::join!(a.tell_abroad(&to, b"secret".to_vec(), SOON), answer);
        let error = told.unwrap_err();
        assert!(matches!(error, Error::Certificate(_)), "{error}");
        assert!(error.to_string().contains(why), "{error}, not {why}");
    }
    assert_eq!(lines(&a), 0);
}

#[tokio::test(start_paused = true)]
async fn who_shows_no_certificate_gets_nothing() {
    let (dir, board) = (tempfile::tempdir().unwrap(), Switchboard::default());
    let a = founder(dir.path(), &board, "a").await;
    let mut heard = listen(&a);
    let stranger = Stranger::new(&board);
    let long = vec![0xff; 100];
    let announced = (MAX_HELLO as u32 + 1).to_le_bytes().to_vec();
    let message = [&[1, 4, 0, 0, 0][..], b"told"].concat();
    for bytes in [long, announced, message, vec![0; 4], vec![5, 0, 0, 0, 1, 2, 3, 4, 5]] {
        let connection = stranger.connect(&a).await;
        let mut stream = connection.open().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, &bytes).await.unwrap();
        tokio::io::AsyncWriteExt::shutdown(&mut stream).await.unwrap();
        let closed = timeout(SOON, connection.closed()).await.unwrap();
        assert!(matches!(closed, LinkError::ClosedByPeer { .. }), "{closed}");
    }
    // One that says nothing at all, and one that wants a second stream first.
    let silent = stranger.connect(&a).await;
    let _first = silent.open().await.unwrap();
    assert!(timeout(Duration::from_secs(1), silent.open()).await.is_err());
    let closed = timeout(SOON, silent.closed()).await.unwrap().to_string();
    assert!(closed.contains("took too long"), "{closed}");
    assert!(heard.try_recv().is_err());
    assert_eq!(lines(&a), 0);
}

#[tokio::test(start_paused = true)]
async fn streams_of_members_and_of_strangers_are_kept_apart() {
    let (dir, board) = (tempfile::tempdir().unwrap(), Switchboard::default());
    let a = founder(dir.path(), &board, "a").await;
    let mut heard = listen(&a);
    let stranger = Stranger::new(&board);
    let connection = stranger.dial(&a).await.unwrap();
    let mut stream = connection.open().await.unwrap();
    crate::peer::session::write_head(&mut stream.send, &crate::ServiceId::CONTROL, vec![])
        .await
        .unwrap();
    let closed = timeout(SOON, connection.closed()).await.unwrap();
    assert!(closed.to_string().contains("not a message"), "{closed}");
    assert!(timeout(SOON, a.accept()).await.is_err(), "it came out among the members'");

    // A member that speaks so to members is no better off.
    let b = lone(dir.path(), &board).await;
    b.join(&a.invite(SOON).await.unwrap(), "b").await.unwrap();
    b.connect(a.id(), SOON).await.unwrap();
    let live = b.inner().table.current(a.id()).unwrap();
    send(&*live.connection, Kind::Tell, b"told").await;
    assert!(timeout(SOON, heard.recv()).await.is_err());

    // Neither is who shows the certificate of a stranger where members do.
    let dialled = stranger.link.dial(a.id(), &a.addrs().await, Protocol::Member).await.unwrap();
    let mut stream = dialled.open().await.unwrap();
    let hello = Hello { certificate: stranger.certificate.clone() };
    write_frame(&mut stream, &hello, MAX_HELLO).await.unwrap();
    timeout(SOON, dialled.closed()).await.unwrap();
    assert!(timeout(SOON, a.accept()).await.is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_change_of_a_hello_is_refused(at in any::<usize>(), by in 1u8..) {
        let (node, key) = (NodeKey::ephemeral().id(), SubgridKey::ephemeral());
        let certificate = Certificate::issue(&key, terms(node)).unwrap();
        let mut bytes = postcard::to_stdvec(&Hello { certificate }).unwrap();
        let at = at % bytes.len();
        bytes[at] ^= by;
        if let Ok(Hello { certificate }) = phantom_model::frame::decode(&bytes) {
            let subgrid = certificate.terms().subgrid;
            prop_assert!(certificate.check_for(node, subgrid, NOW).is_err());
        }
    }

    #[test]
    fn any_bytes_instead_of_a_hello_are_answered(
        bytes in proptest::collection::vec(any::<u8>(), 0..MAX_HELLO + 100), framed: bool,
    ) {
        let length = (bytes.len() as u32).to_le_bytes();
        let bytes = if framed { [&length[..], &bytes].concat() } else { bytes };
        let read = async { read_frame::<Hello>(&mut &bytes[..], MAX_HELLO).await };
        let read = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(read);
        if let Ok(Hello { certificate }) = read {
            let Terms { node, subgrid, .. } = *certificate.terms();
            prop_assert!(certificate.check_for(node, subgrid, NOW).is_err());
        }
    }
}

#[test]
fn the_longest_certificate_fits_into_a_hello() {
    let (key, node) = (SubgridKey::ephemeral(), NodeKey::ephemeral());
    let delegation = Delegation::issue(&key, node.id(), u64::MAX);
    let terms = Terms {
        name: "n".repeat(63),
        not_before: u64::MAX,
        expires: u64::MAX,
        serial: u64::MAX,
        ..terms(node.id())
    };
    let certificate = Certificate::issue(Authority::Delegate(node, delegation), terms).unwrap();
    assert!(phantom_model::frame::body(&Hello { certificate }, MAX_HELLO).is_ok());
}
