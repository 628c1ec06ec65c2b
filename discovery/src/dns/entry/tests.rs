use super::*;
use proptest::prelude::*;

const KEY_HEX: &str = "0707070707070707070707070707070707070707070707070707070707070707";
const NODE_HEX: &str = "0909090909090909090909090909090909090909090909090909090909090909";

fn region() -> GridUri {
    "grid://campus.example.org".parse().unwrap()
}

fn ip(text: &str) -> Host {
    Host::Ip(text.parse().unwrap())
}

fn name(text: &str) -> Host {
    Host::Name(text.to_owned())
}

fn entry(hosts: Vec<Host>) -> Entry {
    let at = Mandate { generation: 3, term: 41 };
    Entry::new(hosts, 7777, [7; 32], NodeId([9; 32]), at, vec![]).unwrap()
}

fn read_back(entry: &Entry, uri: &GridUri) -> (Published, Published) {
    let records = entry.to_records(uri);
    assert!(is_ours(&records.txt));
    assert!(records.txt.iter().all(|text| text.len() <= 255));
    (read_uri(&records.uri).unwrap(), read_srv(uri, &records.srv, &records.txt).unwrap())
}

#[test]
fn the_form_is_the_documented_one() {
    let known = entry(vec![name("peer.example.org"), ip("192.0.2.7"), ip("2001:db8::7")]);
    let target = format!(
        "phantom://peer.example.org:7777/?also=192.0.2.7&also=2001:db8::7&key={KEY_HEX}\
         &node={NODE_HEX}&at=3.41"
    );
    assert_eq!(known.to_target(), target);
    let records = known.to_records(&region());
    assert_eq!(&records.uri[..4], &[0, 10, 0, 1]);
    assert_eq!(&records.uri[4..], target.as_bytes());
    let (priority, weight, port) = (10, 1, 7777);
    let target = "peer.example.org".to_owned();
    assert_eq!(records.srv, [Srv { priority, weight, port, target }]);
    let fields = ["also=192.0.2.7", "also=2001:db8::7"].map(str::to_owned);
    assert_eq!(records.txt[0], "v=phantom1");
    assert_eq!(records.txt[1..3], fields);
}

#[test]
fn addresses_alone_and_the_regions_own_name() {
    for hosts in [
        vec![ip("2001:db8::7")],
        vec![ip("192.0.2.7"), ip("2001:db8::7")],
        vec![name("campus.example.org")],
        vec![ip("192.0.2.7"), name("campus.example.org")],
        vec![name("campus.example.org"), name("peer.example.org")],
    ] {
        let known = entry(hosts.clone());
        let (uri, srv) = read_back(&known, &region());
        assert_eq!(uri.entry, known);
        assert_eq!(srv.entry.hosts().len(), hosts.len(), "{hosts:?}");
        assert!(srv.entry.hosts().iter().all(|host| hosts.contains(host)), "{hosts:?}");
    }
}

#[test]
fn what_is_wrong_with_a_target_is_named() {
    let good = entry(vec![ip("192.0.2.7")]).to_target();
    assert!(Entry::from_target(&good).is_ok());
    for (from, to, expected) in [
        ("phantom://", "http://", "is not of the form"),
        ("/?", "?", "is not of the form"),
        (":7777", "", "is not of the form"),
        (":7777", ":0", "no port"),
        (":7777", ":07777", "no port"),
        (":7777", ":70000", "no port"),
        (":7777", ":+1", "no port"),
        ("192.0.2.7", "0.0.0.0", "neither a host name nor an address"),
        ("192.0.2.7", "239.1.1.1", "neither a host name nor an address"),
        ("192.0.2.7", "192.0.2", "neither a host name nor an address"),
        ("192.0.2.7", "[192.0.2.7]", "neither a host name nor an address"),
        ("192.0.2.7", "2001:db8::1", "neither a host name nor an address"),
        ("192.0.2.7", "[2001:db8::1", "neither a host name nor an address"),
        ("192.0.2.7", "Peer.example", "neither a host name nor an address"),
        ("192.0.2.7", "user@peer.example", "neither a host name nor an address"),
        ("192.0.2.7", "", "neither a host name nor an address"),
        ("key=", "kee=", "key= is missing"),
        ("node=", "nod=", "node= is missing"),
        ("at=3.41", "x=1", "at= is missing"),
        ("at=3.41", "at=3", "is not a mandate"),
        ("at=3.41", "at=3.041", "is not a mandate"),
        ("at=3.41", "at=3.41.1", "is not a mandate"),
        ("at=3.41", "at=+3.41", "is not a mandate"),
        ("at=3.41", "at=3.99999999999999999999", "is not a mandate"),
        ("at=3.41", "at=3.41&at=3.41", "at is there twice"),
        ("at=3.41", "at=3.41&also=192.0.2.7", "a host is there twice"),
        ("at=3.41", "at=3.41&", "is not of the form"),
        ("at=3.41", "at=3.41&rotated=", "is not 1 to 128 bytes"),
        ("at=3.41", "at=3.41&rotated=A7", "is not 1 to 128 bytes"),
        ("at=3.41", "at=3.41&rotated=a", "is not 1 to 128 bytes"),
        ("key=07", "key=+7", "is not 64 hexadecimal digits"),
        ("key=07", "key=0", "is not 64 hexadecimal digits"),
        ("key=07", "key=0707", "is not 64 hexadecimal digits"),
        ("at=3.41", "at=3.41&x=\n", "is not of the form"),
    ] {
        let text = good.replace(from, to);
        assert_ne!(text, good);
        let error = Entry::from_target(&text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
        assert!(!error.contains('\n'));
    }
    // What later versions may add.
    assert!(Entry::from_target(&format!("{good}&load=3")).is_ok());
}

#[test]
fn bounds() {
    let at = Mandate::default();
    let make = |hosts: Vec<Host>, proofs: Vec<Vec<u8>>| {
        Entry::new(hosts, 1, [7; 32], NodeId([9; 32]), at, proofs)
    };
    let ips = |count: u8| (1..=count).map(|last| Host::Ip([192, 0, 2, last].into())).collect();
    assert!(make(ips(8), vec![]).is_ok());
    assert!(matches!(make(ips(9), vec![]), Err(EntryError::TooMany { what: "hosts", .. })));
    assert!(matches!(make(vec![], vec![]), Err(EntryError::Missing { .. })));
    assert!(make(ips(1), vec![vec![1; MAX_PROOF]; MAX_PROOFS]).is_ok());
    for proofs in [vec![vec![1; 64]; MAX_PROOFS + 1], vec![vec![1; MAX_PROOF + 1]], vec![vec![]]] {
        assert!(make(ips(1), proofs).is_err());
    }
    let label = "a".repeat(60);
    let long: Vec<Host> =
        (0..8).map(|last| name(&format!("{label}.{label}.{label}.h{last}.example"))).collect();
    assert!(matches!(make(long, vec![]), Err(EntryError::TooLong { .. })));
    assert!(matches!(make(vec![name("192.0.2.1")], vec![]), Err(EntryError::Host { .. })));
    let good = entry(ips(1));
    let many = "&x=1".repeat(MAX_FIELDS);
    let error = Entry::from_target(&format!("{}{many}", good.to_target())).unwrap_err();
    assert!(matches!(error, EntryError::TooMany { what: "fields", .. }));
    let error = Entry::from_target(&format!("{}&x={}", good.to_target(), "1".repeat(MAX_TARGET)));
    assert!(matches!(error, Err(EntryError::TooLong { .. })));
    for data in [&b""[..], b"\0", b"\0\x0a\0"] {
        assert_eq!(read_uri(data), Err(EntryError::CutOff));
    }
    assert!(matches!(read_uri(b"\0\x0a\0\x01\xff\xfe"), Err(EntryError::Form { .. })));
    assert!(matches!(read_uri(&[b'a'; MAX_TARGET + 5]), Err(EntryError::TooLong { .. })));
}

#[test]
fn srv_records_that_make_no_entry() {
    let records =
        entry(vec![name("peer.example.org"), name("b.example.org")]).to_records(&region());
    let read = |srv: &[Srv], txt: &[String]| read_srv(&region(), srv, txt);
    assert!(matches!(read(&[], &records.txt), Err(EntryError::Missing { .. })));
    let mut ports = records.srv.clone();
    ports[1].port = 1;
    assert_eq!(read(&ports, &records.txt), Err(EntryError::Ports));
    let mut none = records.srv.clone();
    // "Decidedly not available" (RFC 2782).
    none[0].target = ".".to_owned();
    assert!(matches!(read(&none, &records.txt), Err(EntryError::Host { .. })));
    let mut address = records.srv.clone();
    address[0].target = "192.0.2.7.".to_owned();
    assert!(matches!(read(&address, &records.txt), Err(EntryError::Host { .. })));
    let many = vec![records.srv[0].clone(); MAX_RECORDS + 1];
    assert!(matches!(read(&many, &records.txt), Err(EntryError::TooMany { .. })));
    // The order is that of the records' priorities, whatever the order of the answer.
    let mut turned = records.srv.clone();
    turned.reverse();
    turned[1].target = "PEER.example.org.".to_owned();
    let hosts = [name("peer.example.org"), name("b.example.org")];
    assert_eq!(read(&turned, &records.txt).unwrap().entry.hosts(), hosts);
    assert!(!is_ours(&["v=spf1 -all"]) && !is_ours::<&str>(&[]));
}

fn any_host() -> impl Strategy<Value = Host> {
    let label = "[a-z]([a-z0-9-]{0,8}[a-z0-9])?"
        .prop_filter("no `??--`", |label| label.get(2..4).is_none_or(|part| part != "--"));
    prop_oneof![
        any::<IpAddr>().prop_filter("of a node", |ip| is_of_a_node(*ip)).prop_map(Host::Ip),
        proptest::collection::vec(label, 1..4).prop_map(|labels| Host::Name(labels.join("."))),
        Just(Host::Name("campus.example.org".to_owned())),
    ]
}

fn any_entry() -> impl Strategy<Value = Entry> {
    (
        proptest::collection::btree_set(any_host(), 1..=MAX_HOSTS),
        1..=u16::MAX,
        any::<[u8; 32]>(),
        any::<[u8; 32]>(),
        any::<(u64, u64)>(),
        proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 1..=MAX_PROOF),
            0..=MAX_PROOFS,
        ),
    )
        .prop_filter_map("fits", |(hosts, port, key, node, (generation, term), rotated)| {
            let (at, hosts) = (Mandate { generation, term }, hosts.into_iter().collect());
            Entry::new(hosts, port, key, NodeId(node), at, rotated).ok()
        })
}

/// An entry with its hosts in a fixed order: SRV and TXT keep that of names and of addresses only.
fn sorted(entry: &Entry) -> Entry {
    let mut entry = entry.clone();
    entry.hosts.sort();
    entry
}

proptest! {
    #[test]
    fn whatever_is_written_is_read_back(known in any_entry()) {
        let (uri, srv) = read_back(&known, &region());
        prop_assert_eq!(&uri.entry, &known);
        prop_assert_eq!((uri.priority, uri.weight), (PRIORITY, WEIGHT));
        prop_assert_eq!(sorted(&srv.entry), sorted(&known));
        let json = serde_json::to_string(&known).unwrap();
        prop_assert_eq!(serde_json::from_str::<Entry>(&json).unwrap(), known);
    }

    #[test]
    fn any_bytes_are_answered(
        data in proptest::collection::vec(any::<u8>(), 0..1200),
        strings in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..256), 0..6),
        target in "\\PC{0,40}",
    ) {
        let _ = read_uri(&data);
        let _ = Entry::from_target(&String::from_utf8_lossy(&data));
        let srv = Srv { priority: 0, weight: 65_535, port: 1, target };
        let _ = read_srv(&region(), &[srv], &strings);
    }

    /// Near what is right: one byte changed, taken out or put in. What is read as an entry is one
    /// that could have been written.
    #[test]
    fn a_changed_byte_is_answered(
        known in any_entry(),
        place in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        kind in 0..3,
    ) {
        let mut data = known.to_records(&region()).uri;
        let place = place.index(data.len());
        match kind {
            0 => data[place] = byte,
            1 => data.insert(place, byte),
            _ => _ = data.remove(place),
        }
        if let Ok(read) = read_uri(&data) {
            prop_assert_eq!(Entry::from_target(&read.entry.to_target()).unwrap(), read.entry);
        }
    }
}
