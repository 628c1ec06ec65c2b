//! Neither side trusts the other.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::common::{APP, open_root};
use phantom_fs::client::{Client, ClientConfig, Ino, Lookup};
use phantom_fs::proto::{
    Answer, Attr, Digest, DirItem, Entry, FileKind, HandleId, Hello, Name, NodeId, Op, OpenMode,
    Refusal, RequestId, SessionId, Timestamp, ToClient, ToServer, VERSION, read_frame, write_frame,
};
use phantom_fs::server::{ControlClient, SelfFds, Server, ServerConfig, serve_control};
use phantom_model::{AppId, Epoch};
use rustix::io::Errno;

fn attr(kind: FileKind) -> Attr {
    let t = Timestamp { sec: i64::MIN, nsec: u32::MAX };
    Attr {
        ino: 5,
        size: 10,
        blocks: 0,
        atime: t,
        mtime: t,
        ctime: t,
        kind,
        perm: 0o755,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: (0, 0),
        block_size: 0,
        system: true,
    }
}

/// A client of a home that answers every request with what `answer` says.
fn client_of(answer: fn(&Op) -> (Answer, Vec<u8>)) -> std::sync::Arc<Client> {
    let transport = move |_: Duration| {
        let (ours, theirs) = UnixStream::pair()?;
        std::thread::spawn(move || {
            while let Ok((message, _)) = read_frame::<ToServer>(&mut &theirs) {
                let (reply, payload) = match message {
                    ToServer::Hello(_) => {
                        let root = Entry { node: NodeId::ROOT, attr: attr(FileKind::Directory) };
                        (ToClient::Welcome { root }, Vec::new())
                    }
                    ToServer::Request { id, op, .. } => {
                        let (answer, payload) = answer(&op);
                        (ToClient::Reply { id, result: Ok(answer) }, payload)
                    }
                };
                if write_frame(&mut &theirs, &reply, &payload).is_err() {
                    break;
                }
            }
        });
        Ok(ours)
    };
    let mut config = ClientConfig::new(APP, Epoch::FIRST);
    config.deadline = Duration::from_secs(2);
    Client::connect(transport, config, None).unwrap()
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

const READ: OpenMode = OpenMode { read: true, write: false, truncate: false, exclusive: false };

#[test]
fn a_home_that_lies_gets_errors() {
    // The root as an entry of itself; an answer to another question; too many bytes.
    let client = client_of(|op| match op {
        Op::Lookup { name, .. } if name.as_bytes() == b"root" => {
            (Answer::Entry(Entry { node: NodeId::ROOT, attr: attr(FileKind::Directory) }), vec![])
        }
        Op::Lookup { .. } => {
            (Answer::Entry(Entry { node: NodeId(9), attr: attr(FileKind::File) }), vec![])
        }
        Op::Open { .. } => (
            Answer::Opened {
                handle: HandleId(1),
                attr: attr(FileKind::File),
                digest: Some(Digest([7; 32])),
            },
            b"0123456789".to_vec(),
        ),
        Op::Read { .. } => (Answer::Data, vec![1; 5000]),
        Op::Manifest { .. } => {
            (Answer::Manifest { digest: Digest([7; 32]), total: 1, size: 10 }, vec![3; 32])
        }
        Op::Write { .. } => (Answer::Count(1 << 40), vec![]),
        Op::ReadLink { .. } => (Answer::Data, b"nul\0byte".to_vec()),
        Op::GetAttr { .. } => {
            (Answer::Attr(Attr { size: u64::MAX, ..attr(FileKind::Directory) }), vec![])
        }
        _ => (Answer::Done, vec![]),
    });
    assert_eq!(client.lookup(Ino::ROOT, &name("root")), Err(Errno::IO));
    let Ok(Lookup::Found(found)) = client.lookup(Ino::ROOT, &name("x")) else { panic!() };
    assert_eq!(found.attr.mtime, found.attr.mtime.clamped());
    // The content it sent along is not what its digest says, nor is any other it makes up.
    let opened = client.open(found.ino, READ).unwrap();
    assert!(client.read(opened.handle, 0, 10).is_err());
    assert_eq!(client.write(opened.handle, 0, false, b"abc"), Err(Errno::IO));
    assert_eq!(client.read_link(found.ino), Err(Errno::IO));
    assert!(client.get_attr(Ino::ROOT, None).is_err());
    assert!(client.get_attr(found.ino, None).is_err(), "a file became a directory");
    assert_eq!(client.space(Ino::ROOT), Err(Errno::IO));
}

#[test]
fn wrong_bytes_of_a_system_file_are_never_returned() {
    let client = client_of(|op| match op {
        Op::Lookup { .. } => {
            (Answer::Entry(Entry { node: NodeId(9), attr: attr(FileKind::File) }), vec![])
        }
        Op::Open { .. } => (
            Answer::Opened { handle: HandleId(1), attr: attr(FileKind::File), digest: None },
            vec![],
        ),
        Op::Manifest { .. } => {
            let manifest = phantom_fs::manifest::Manifest::of_bytes(b"the right!");
            let answer = Answer::Manifest { digest: manifest.digest(), total: 1, size: 10 };
            (answer, manifest.chunks().as_flattened().to_vec())
        }
        Op::Read { .. } => (Answer::Data, b"the wrong!".to_vec()),
        Op::GetAttr { .. } => (Answer::Attr(attr(FileKind::File)), vec![]),
        _ => (Answer::Done, vec![]),
    });
    let Ok(Lookup::Found(found)) = client.lookup(Ino::ROOT, &name("x")) else { panic!() };
    let opened = client.open(found.ino, READ).unwrap();
    assert_eq!(client.read(opened.handle, 0, 10), Err(Errno::IO));
}

#[test]
fn a_listing_without_end_is_still_answered_in_pages() {
    let client = client_of(|op| match op {
        Op::OpenDir { .. } => (
            Answer::Opened { handle: HandleId(1), attr: attr(FileKind::Directory), digest: None },
            vec![],
        ),
        Op::ReadDir { offset, .. } => {
            let entry = Some(Entry { node: NodeId(2), attr: attr(FileKind::File) });
            let item = DirItem {
                name: name("again"),
                ino: 1,
                kind: FileKind::File,
                next_offset: *offset,
                entry,
            };
            (Answer::Listing(vec![item; 100]), vec![])
        }
        _ => (Answer::Done, vec![]),
    });
    let opened = client.open_dir(Ino::ROOT).unwrap();
    let page = client.read_dir(opened.handle, 0, 4096, true).unwrap();
    assert_eq!(page.len(), 100);
    assert_eq!(client.inodes(), 2, "one file, however often it is listed");
}

fn server(dir: &std::path::Path) -> Server {
    Server::new(open_root(dir), SelfFds::open().unwrap(), ServerConfig::new(APP)).unwrap()
}

fn raw_connection(server: &Server) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = server.clone();
    std::thread::spawn(move || server.serve(theirs));
    ours.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    ours
}

fn hello(session: u128) -> Hello {
    Hello {
        version: VERSION,
        session: SessionId(session),
        app: APP,
        epoch: Epoch::FIRST,
        resumed: false,
    }
}

fn say(stream: &UnixStream, message: &ToServer) -> Option<ToClient> {
    write_frame(&mut &*stream, message, &[]).ok()?;
    read_frame::<ToClient>(&mut &*stream).ok().map(|(message, _)| message)
}

fn ask(stream: &UnixStream, id: u64, op: Op) -> Result<Answer, i32> {
    let request = ToServer::Request { id: RequestId(id), answered_below: RequestId(1), op };
    match say(stream, &request) {
        Some(ToClient::Reply { id: answered, result }) if answered.0 == id => result,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_client_that_lies_gets_errors_and_nothing_from_outside() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("d")).unwrap();
    std::os::unix::fs::symlink("/", dir.path().join("d/out")).unwrap();
    let server = server(dir.path());
    for (wrong, refusal) in [
        (Hello { version: VERSION + 1, ..hello(1) }, Refusal::Version(VERSION)),
        (Hello { app: AppId(8), ..hello(1) }, Refusal::App),
        (Hello { resumed: true, ..hello(1) }, Refusal::Unknown),
    ] {
        let answer = say(&raw_connection(&server), &ToServer::Hello(wrong));
        assert_eq!(answer, Some(ToClient::Refused(refusal)));
    }
    let stream = raw_connection(&server);
    assert!(matches!(say(&stream, &ToServer::Hello(hello(2))), Some(ToClient::Welcome { .. })));
    let (bad_node, bad_handle) = (NodeId(999), HandleId(999));
    assert_eq!(ask(&stream, 1, Op::GetAttr { node: bad_node, handle: None }), Err(116));
    assert_eq!(ask(&stream, 2, Op::Read { handle: bad_handle, offset: 0, len: u32::MAX }), Err(9));
    assert_eq!(ask(&stream, 3, Op::Release { handle: bad_handle }), Ok(Answer::Done));
    let forget = Op::Forget { nodes: vec![(NodeId::ROOT, u64::MAX), (bad_node, 1)] };
    assert_eq!(ask(&stream, 4, forget), Ok(Answer::Done));
    let Ok(Answer::Entry(d)) =
        ask(&stream, 5, Op::Lookup { parent: NodeId::ROOT, name: name("d") })
    else {
        panic!()
    };
    let Ok(Answer::Entry(out)) = ask(&stream, 6, Op::Lookup { parent: d.node, name: name("out") })
    else {
        panic!()
    };
    assert_eq!(out.attr.kind, FileKind::Symlink);
    assert_eq!(ask(&stream, 7, Op::Lookup { parent: out.node, name: name("etc") }), Err(20));
    assert_eq!(ask(&stream, 8, Op::Open { node: out.node, open: READ, known: None }), Err(40));
    let open = OpenMode { read: true, write: true, ..OpenMode::default() };
    let create = Op::Create { parent: out.node, name: name("x"), mode: 0o644, open };
    assert_eq!(ask(&stream, 9, create), Err(20));
    assert!(
        ask(
            &stream,
            10,
            Op::Fallocate { handle: bad_handle, mode: u32::MAX, offset: u64::MAX, len: u64::MAX }
        )
        .is_err()
    );
    let create = Op::Create { parent: d.node, name: name("f"), mode: u32::MAX, open };
    let Ok(Answer::Created { handle, entry }) = ask(&stream, 11, create) else { panic!() };
    assert_eq!(entry.attr.perm, 0o7777);
    for (id, op) in [
        (12, Op::Write { handle, offset: u64::MAX, append: false }),
        (13, Op::Read { handle, offset: u64::MAX, len: 1 }),
        (14, Op::Fallocate { handle, mode: 0, offset: u64::MAX, len: 1 }),
        (15, Op::ReadDir { handle, offset: 0, max_bytes: u32::MAX, attributes: true }),
        (16, Op::OpenDir { node: entry.node }),
        (17, Op::Manifest { handle, first: u32::MAX }),
        (
            18,
            Op::SetXattr {
                node: entry.node,
                name: name("security.x"),
                mode: phantom_fs::proto::XattrMode::Any,
            },
        ),
        (19, Op::Link { node: NodeId::ROOT, parent: d.node, name: name("root") }),
        (
            20,
            Op::Rename {
                parent: NodeId::ROOT,
                name: name("d"),
                new_parent: d.node,
                new_name: name("d"),
                mode: phantom_fs::proto::RenameMode::Replace,
            },
        ),
    ] {
        let answer = ask(&stream, id, op.clone());
        assert!(answer.is_err() || answer == Ok(Answer::Count(0)), "{op:?}: {answer:?}");
    }
    // A second greeting, or bytes that are nothing, end the connection and no more.
    assert_eq!(say(&stream, &ToServer::Hello(hello(2))), None);
    use std::io::Write;
    let garbage = raw_connection(&server);
    (&garbage).write_all(&[0xff; 64]).unwrap();
    let mut again = hello(2);
    again.resumed = true;
    let stream = raw_connection(&server);
    assert!(matches!(say(&stream, &ToServer::Hello(again)), Some(ToClient::Welcome { .. })));
    // The session is as it was: what was answered is answered again, not done again.
    let create = Op::Create { parent: d.node, name: name("f"), mode: u32::MAX, open };
    assert_eq!(ask(&stream, 11, create), Ok(Answer::Created { handle, entry }));
}

#[test]
fn sessions_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path());
    let streams: Vec<_> = (0..4)
        .map(|i| {
            let stream = raw_connection(&server);
            assert!(matches!(
                say(&stream, &ToServer::Hello(hello(i))),
                Some(ToClient::Welcome { .. })
            ));
            stream
        })
        .collect();
    let more = raw_connection(&server);
    assert_eq!(say(&more, &ToServer::Hello(hello(9))), Some(ToClient::Refused(Refusal::Full)));
    drop(streams);
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    loop {
        let more = raw_connection(&server);
        match say(&more, &ToServer::Hello(hello(9))) {
            Some(ToClient::Welcome { .. }) => break,
            _ => assert!(std::time::Instant::now() < deadline, "no room for a new session"),
        }
    }
}

#[test]
fn the_shim_controls_the_process_that_serves() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("lib"), "old").unwrap();
    let server = server(dir.path());
    let (control, socket) = ControlClient::pair().unwrap();
    let serving = std::thread::spawn(move || serve_control(&server, &socket));
    control.pin(b"/lib", std::fs::File::open(dir.path().join("lib")).unwrap()).unwrap();
    let error = control.pin(b"/no/lib", std::fs::File::open("/dev/null").unwrap()).unwrap_err();
    assert!(error.to_string().contains("`/no/lib` could not be kept"), "{error}");
    std::fs::remove_file(dir.path().join("lib")).unwrap();
    let control = std::sync::Arc::new(control);
    let transport = {
        let control = std::sync::Arc::clone(&control);
        move |_: Duration| {
            let (ours, theirs) = UnixStream::pair()?;
            control.serve(&theirs).map_err(std::io::Error::other)?;
            Ok(ours)
        }
    };
    let client = Client::connect(transport, ClientConfig::new(APP, Epoch::FIRST), None).unwrap();
    let Ok(Lookup::Found(found)) = client.lookup(Ino::ROOT, &name("lib")) else { panic!() };
    let opened = client.open(found.ino, READ).unwrap();
    assert_eq!(client.read(opened.handle, 0, 10).unwrap(), b"old");
    assert_eq!(control.unpin_all().unwrap(), 1);
    assert!(matches!(client.lookup(Ino::ROOT, &name("lib")), Ok(Lookup::Absent { .. })));
    assert!(control.fence(Epoch(2)).unwrap());
    assert!(client.lookup(Ino::ROOT, &name("lib")).is_err());
    drop(client);
    drop(control);
    serving.join().unwrap().unwrap();
}
