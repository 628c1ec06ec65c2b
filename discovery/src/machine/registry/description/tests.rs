use proptest::prelude::*;

use super::*;

fn description(seq: u64, attributes: &[(&str, &str)]) -> Description {
    let attributes = attributes.iter().map(|(name, text)| ((*name).into(), (*text).into()));
    Description {
        version: Version { boot: 7, seq },
        attributes: Attributes::new(attributes.collect()).unwrap(),
    }
}

pub(crate) fn any_description() -> impl Strategy<Value = Description> {
    let attributes = proptest::collection::btree_map("[a-d][0-9]{0,1}", "[ -~]{0,12}", 0..12);
    (0u64..4, 0u64..4, attributes).prop_map(|(boot, seq, attributes)| Description {
        version: Version { boot, seq },
        attributes: Attributes::new(attributes).unwrap(),
    })
}

fn refused(attributes: BTreeMap<String, String>) -> Excess {
    // What may not be made is not read either.
    let bytes = postcard::to_stdvec(&attributes).unwrap();
    assert!(postcard::from_bytes::<Attributes>(&bytes).is_err());
    Attributes::new(attributes).unwrap_err()
}

fn one(name: &str, text: String) -> BTreeMap<String, String> {
    BTreeMap::from([(name.to_owned(), text)])
}

#[test]
fn what_is_beyond_the_bounds_is_refused_with_its_name() {
    let many = |count: usize| (0..count).map(|at| (format!("a{at}"), String::new())).collect();
    assert!(Attributes::new(many(MAX_ATTRIBUTES)).is_ok());
    assert_eq!(refused(many(MAX_ATTRIBUTES + 1)), Excess::Attributes);
    assert!(Attributes::new(one(&"n".repeat(MAX_NAME), String::new())).is_ok());
    assert!(matches!(refused(one(&"n".repeat(MAX_NAME + 1), String::new())), Excess::Name(_)));
    for name in ["", "1a", "a-b", "a b", "ä", "a\n"] {
        assert_eq!(refused(one(name, String::new())), Excess::Name(name.into()));
    }
    assert!(Attributes::new(one("a", "x".repeat(MAX_TEXT))).is_ok());
    assert_eq!(refused(one("a", "x".repeat(MAX_TEXT + 1))), Excess::Text("a".into()));
    let large: BTreeMap<_, _> = (0..9).map(|at| (format!("a{at}"), "x".repeat(MAX_TEXT))).collect();
    assert_eq!(refused(large), Excess::Whole);
    let twice = BTreeMap::from([("Cpus".to_owned(), "1".to_owned()), ("cpus".into(), "2".into())]);
    let error = refused(twice).to_string();
    assert_eq!(error, "the attribute `cpus` is there twice, in different case: keep one of them");
}

#[test]
fn a_map_that_is_not_in_order_is_refused() {
    let bytes = postcard::to_stdvec(&(2u8, ("a", "1"), ("a", "2"))).unwrap();
    assert!(postcard::from_bytes::<Attributes>(&bytes).is_err());
    let bytes = postcard::to_stdvec(&(2u8, ("b", "1"), ("a", "2"))).unwrap();
    assert!(postcard::from_bytes::<Attributes>(&bytes).is_err());
    let bytes = postcard::to_stdvec(&(2u8, ("a", "1"), ("b", "2"))).unwrap();
    assert_eq!(postcard::from_bytes::<Attributes>(&bytes).unwrap().len(), 2);
}

#[test]
fn a_difference_to_something_else_asks_for_the_whole() {
    let (old, new) = (description(1, &[("a", "1"), ("b", "2")]), description(2, &[("a", "3")]));
    let difference = Difference::between(&old, &new);
    assert_eq!(difference.apply(&old), Ok(new.clone()));
    assert_eq!(difference.len(), "a3b".len());
    assert_eq!(difference.apply(&new), Err(Mismatch::Base));
    let same = description(3, &[("a", "1"), ("b", "2")]);
    assert_eq!(difference.apply(&same), Err(Mismatch::Base), "the version is of the base");
}

#[test]
fn a_difference_that_lies_gives_nothing() {
    let (old, new) = (description(1, &[("a", "1")]), description(2, &[("a", "3")]));
    let difference = Difference::between(&old, &new);
    let other = Difference { result: old.digest(), ..difference.clone() };
    assert_eq!(other.apply(&old), Err(Mismatch::Result));
    let later = Difference { version: Version { boot: 7, seq: 9 }, ..difference };
    assert_eq!(later.apply(&old), Err(Mismatch::Result));
    // Each change is within the bounds, all together are not.
    let text = "x".repeat(MAX_TEXT);
    let full: Vec<_> = (0..7).map(|at| (format!("a{at}"), text.clone())).collect();
    let full: Vec<(&str, &str)> = full.iter().map(|(name, text)| (&**name, &**text)).collect();
    let full = description(1, &full);
    let mut difference = Difference::between(&full, &description(2, &[]));
    difference.changes = Changes(BTreeMap::from([
        ("b".into(), Some(text.clone())),
        ("c".into(), Some(text.clone())),
    ]));
    assert_eq!(difference.apply(&full), Err(Mismatch::Excess(Excess::Whole)));
}

#[test]
fn a_description_is_an_ad_and_what_does_not_parse_is_an_error_there() {
    let ad = description(1, &[("Cpus", "2 * 4"), ("bad", "1 +")]).attributes.ad();
    assert_eq!(ad.value("cpus"), Value::from(8));
    assert_eq!(ad.value("bad"), Value::Error);
}

proptest! {
    #[test]
    fn a_difference_gives_the_other_description(
        one in any_description(), two in any_description(), three in any_description()) {
        let difference = Difference::between(&one, &two);
        prop_assert_eq!(difference.apply(&one), Ok(two.clone()));
        let expected = if three == one { Ok(two.clone()) } else { Err(Mismatch::Base) };
        prop_assert_eq!(difference.apply(&three), expected);
        let bytes = postcard::to_stdvec(&difference).unwrap();
        prop_assert_eq!(postcard::from_bytes::<Difference>(&bytes).unwrap(), difference);
        prop_assert_eq!(one == two, one.digest() == two.digest());
    }
}

#[test]
fn a_difference_changes_no_more_than_two_descriptions_have() {
    let base = description(1, &[]);
    let difference = |count: usize| {
        let changes = (0..count).map(|at| (format!("a{at:04}"), None)).collect();
        let result = base.digest();
        let difference =
            Difference { version: base.version, base: result, result, changes: Changes(changes) };
        let bytes = postcard::to_stdvec(&difference).unwrap();
        postcard::from_bytes::<Difference>(&bytes)
    };
    assert!(difference(MAX_CHANGES).is_ok());
    assert!(difference(MAX_CHANGES + 1).is_err());
}
