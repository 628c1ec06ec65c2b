use super::*;
use hickory_proto::rr::rdata::tsig::{TSIG, make_tsig_record};
use hickory_proto::rr::{RData, TSigResponseContext};
use proptest::prelude::*;

const NOW: u64 = 1_700_000_000;

fn key(secret: &str) -> TsigKey {
    let text = format!("key \"campus\" {{ algorithm hmac-sha256; secret \"{secret}\"; }};");
    TsigKey::parse(&text, "test").unwrap()
}

fn signer() -> Signer {
    Signer::new(&key("mZ8WhLRSGJTKGzHvIbA/yUkUWfXkHnI2pVqM0bC7cO8=")).unwrap()
}

fn name() -> Name {
    Name::from_ascii("_phantom._udp.campus.test.").unwrap()
}

fn request(signer: &Signer) -> Request {
    signer.query(&name(), RecordType::TXT, NOW).unwrap()
}

/// An answer as a server with the same key gives it.
fn answer(request: &Request, code: ResponseCode, error: Option<TsigError>, at: u64) -> Vec<u8> {
    let mut message = Message::response(request.id, request.op_code);
    message.metadata.response_code = code;
    let bytes = message.to_vec().unwrap();
    let mac = request.mac.clone();
    let context = TSigResponseContext::new(request.id, at, signer().0, mac, error);
    message.set_signature(context.sign(&bytes).unwrap());
    message.to_vec().unwrap()
}

/// An answer that is not signed and says this of the key.
fn complaint(request: &Request, error: Option<TsigError>, mac: &[u8]) -> Vec<u8> {
    let mut message = Message::response(request.id, request.op_code);
    message.metadata.response_code = ResponseCode::NotAuth;
    if let Some(error) = error {
        let algorithm = TsigAlgorithm::HmacSha256;
        let (id, none) = (request.id, Vec::new());
        let tsig = TSIG::new(algorithm, NOW, FUDGE, mac.to_vec(), id, Some(error), none);
        let name = Name::from_ascii("campus.").unwrap();
        message.set_signature(Box::new(make_tsig_record(name, tsig)));
    }
    message.to_vec().unwrap()
}

#[test]
fn an_answer_is_believed_by_its_signature_only() {
    let signer = signer();
    let request = request(&signer);
    let good = answer(&request, ResponseCode::NoError, None, NOW);
    assert!(signer.read(&request, &good, NOW).is_ok());
    // The same answer to another question, as replayed.
    let mut other = self::request(&signer);
    assert_eq!(signer.read(&other, &good, NOW).unwrap_err(), Unusable::NotAnAnswer);
    other.id = request.id;
    other.mac[0] ^= 1;
    assert_eq!(signer.read(&other, &good, NOW).unwrap_err(), Unusable::Forged);
    let stranger = Signer::new(&key("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")).unwrap();
    assert_eq!(stranger.read(&request, &good, NOW).unwrap_err(), Unusable::Forged);
    let unsigned = complaint(&request, None, b"");
    let error = signer.read(&request, &unsigned, NOW).unwrap_err();
    assert_eq!(error, Unusable::Unsigned(ResponseCode::NotAuth));
    assert_eq!(signer.read(&request, &request.bytes, NOW).unwrap_err(), Unusable::NotAnAnswer);
}

#[test]
fn what_a_server_says_of_the_key() {
    let signer = signer();
    let request = request(&signer);
    for (error, expected) in
        [(TsigError::BadKey, Unusable::BadKey), (TsigError::BadSig, Unusable::BadSignature)]
    {
        let bytes = complaint(&request, Some(error), b"");
        assert_eq!(signer.read(&request, &bytes, NOW).unwrap_err(), expected);
        // With a signature it is to be checked.
        let bytes = complaint(&request, Some(error), &[1; 32]);
        assert_eq!(signer.read(&request, &bytes, NOW).unwrap_err(), Unusable::Forged);
    }
    // A time that nobody has signed says nothing.
    let bytes = complaint(&request, Some(TsigError::BadTime), b"");
    assert_eq!(signer.read(&request, &bytes, NOW).unwrap_err(), Unusable::Forged);
}

#[test]
fn times_that_are_too_far_off() {
    let signer = signer();
    let request = request(&signer);
    let fudge = u64::from(FUDGE);
    for at in [NOW - fudge, NOW + fudge] {
        let bytes = answer(&request, ResponseCode::NoError, None, at);
        assert!(signer.read(&request, &bytes, NOW).is_ok());
    }
    for (at, seconds) in [(NOW - fudge - 1, -301), (NOW + fudge + 1, 301), (fudge, -1_699_999_700)]
    {
        let bytes = answer(&request, ResponseCode::NoError, None, at);
        let error = signer.read(&request, &bytes, NOW).unwrap_err();
        assert_eq!(error, Unusable::BadTime(seconds));
    }
    // Before the beginning of time.
    let bytes = answer(&request, ResponseCode::NoError, None, 1);
    assert_eq!(signer.read(&request, &bytes, NOW).unwrap_err(), Unusable::Forged);
}

#[test]
fn prerequisites_name_each_type() {
    let txt = Record::from_rdata(
        name(),
        60,
        RData::TXT(hickory_proto::rr::rdata::TXT::new(vec!["x".to_owned()])),
    );
    let all = exactly(&name(), std::slice::from_ref(&txt));
    assert_eq!(all.len(), 3);
    for record in &all {
        let there = record.record_type() == RecordType::TXT;
        let class = if there { DNSClass::IN } else { DNSClass::NONE };
        assert_eq!((record.dns_class, record.ttl), (class, 0));
    }
    let changes = replaced(&name(), &[txt]);
    assert_eq!(changes.iter().filter(|one| one.dns_class == DNSClass::ANY).count(), 3);
    assert_eq!(changes.last().map(|one| (one.dns_class, one.ttl)), Some((DNSClass::IN, 60)));
    // It can be written and read as a message.
    let signer = signer();
    let zone = Name::from_ascii("campus.test.").unwrap();
    let request = signer.update(&zone, all, changes, NOW).unwrap();
    let message = Message::from_vec(&request.bytes).unwrap();
    assert_eq!((message.prerequisites().len(), message.updates().len()), (3, 4));
}

proptest! {
    #[test]
    fn any_answer_is_answered(
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let signer = signer();
        let request = request(&signer);
        let _ = signer.read(&request, &bytes, NOW);
        let good = answer(&request, ResponseCode::NoError, None, NOW);
        let mut changed = good.clone();
        for (place, byte) in changes {
            let place = place.index(changed.len());
            changed[place] = byte;
        }
        if changed != good && let Ok(message) = signer.read(&request, &changed, NOW) {
            // Only what is not authenticated may differ: case of names, as DNS names know none.
            prop_assert_eq!(message.metadata.response_code, ResponseCode::NoError);
        }
        prop_assert!(signer.read(&request, &good[..cut.index(good.len())], NOW).is_err());
    }

    /// Headers that promise more than there is, TSIG records in wrong places and twice.
    #[test]
    fn broken_headers_are_answered(
        counts in any::<[u16; 4]>(),
        small in any::<bool>(),
        parts in proptest::collection::vec(0usize..3, 0..6),
    ) {
        let signer = signer();
        let request = request(&signer);
        let good = answer(&request, ResponseCode::NoError, None, NOW);
        let tsig = &good[12..];
        let mut bytes = good[..4].to_vec();
        for count in counts {
            bytes.extend((if small { count % 4 } else { count }).to_be_bytes());
        }
        for part in parts {
            match part {
                0 => bytes.extend(tsig),
                1 => bytes.extend(b"\0\0\x10\0\x01\0\0\0\0\0\x02\x01a"),
                _ => bytes.extend(b"\0\0\x10\0\x01"),
            }
        }
        let _ = signer.read(&request, &bytes, NOW);
    }
}
