use super::*;
use proptest::prelude::*;

const SECRET_TEXT: &str = "mZ8WhLRSGJTKGzHvIbA/yUkUWfXkHnI2pVqM0bC7cO8=";

fn file(inner: &str) -> String {
    format!("key \"update.campus\" {{\n\talgorithm hmac-sha256;\n\tsecret \"{inner}\";\n}};\n")
}

fn parse(text: &str) -> Result<TsigKey, KeyError> {
    TsigKey::parse(text, "region.key")
}

#[test]
fn what_tsig_keygen_prints_is_read() {
    let key = parse(&file(SECRET_TEXT)).unwrap();
    assert_eq!((key.name(), key.algorithm()), ("update.campus", Algorithm::HmacSha256));
    assert_eq!(key.secret().len(), 32);
    assert!(!format!("{key:?}").contains("mZ8W"), "the secret is not shown");
    for (name, algorithm) in
        [("hmac-sha384", Algorithm::HmacSha384), ("HMAC-SHA512", Algorithm::HmacSha512)]
    {
        let text = file(SECRET_TEXT).replace("hmac-sha256", name);
        assert_eq!(parse(&text).unwrap().algorithm(), algorithm);
    }
}

#[test]
fn forms_that_named_reads_too() {
    let plain = parse(&file(SECRET_TEXT)).unwrap();
    let text = format!(
        "# made on Monday\n/* two\nlines */ key Update.Campus. {{ // here\n secret {SECRET_TEXT} ;\
         algorithm \"hmac-sha256\";}} ; # end"
    );
    assert_eq!(parse(&text).unwrap(), plain);
}

#[test]
fn errors_name_file_and_line_and_never_the_secret() {
    let good = file(SECRET_TEXT);
    for (text, line, expected) in [
        (String::new(), 1, "does not begin with `key`"),
        ("\n\nzone x {};".to_owned(), 3, "does not begin with `key`"),
        ("key ;".to_owned(), 1, "no name of a key"),
        ("key \"a..b\" {".to_owned(), 1, "no name of a key"),
        ("key a\n;".to_owned(), 2, "there is no `{`"),
        (good.replace("hmac-sha256", "hmac-md5"), 2, "`hmac-md5` is not hmac-sha256"),
        (good.replace("algorithm", "algorythm"), 2, "a key has no `algorythm`"),
        (good.replace("hmac-sha256;", ";"), 2, "`algorithm` says nothing"),
        (good.replace("hmac-sha256;", "hmac-sha256"), 3, "after `algorithm` there is no `;`"),
        (good.replace("\talgorithm hmac-sha256;\n", ""), 3, "the key has no `algorithm`"),
        (good.replace("\tsecret", "\talgorithm hmac-sha256;\n\tsecret"), 3, "is there twice"),
        (file(&SECRET_TEXT.replace('m', "?")), 3, "the secret is not base 64"),
        (file("c2hvcnQ="), 3, "16 to 512 bytes"),
        (good.replace("=\"", "="), 3, "a quoted text has no end"),
        (good.replace("};", "}"), 5, "after `}` there is no `;`"),
        (good.replace("};", ""), 5, "the key has no `}`"),
        (format!("{good}{good}"), 5, "one file, one key"),
        (good.replace("key", "/* key"), 1, "a comment has no end"),
        (" ".repeat(MAX_FILE + 1), 1, "too long"),
    ] {
        let error = parse(&text).unwrap_err();
        let shown = error.to_string();
        assert!(shown.contains(expected), "{text}: {shown}");
        assert!(shown.starts_with(&format!("region.key:{line}: ")), "{text}: {shown}");
        assert!(!shown.contains(&SECRET_TEXT[1..9]) && !shown.contains('\n'), "{shown}");
    }
}

proptest! {
    #[test]
    fn any_text_is_answered(text in "\\PC{0,200}", cut in 0usize..200) {
        let _ = parse(&text);
        let good = file(SECRET_TEXT);
        let mixed: String = good.chars().take(cut).chain(text.chars()).collect();
        if let Ok(key) = parse(&mixed) {
            prop_assert!(SECRET.contains(&key.secret().len()));
        }
    }

    #[test]
    fn tokens_anyhow_put_together_are_answered(
        tokens in proptest::collection::vec(
            prop_oneof![
                Just("key"), Just("a.b"), Just("{"), Just("}"), Just(";"), Just("\""), Just("\n"),
                Just("algorithm"), Just("hmac-sha256"), Just("secret"), Just(SECRET_TEXT),
                Just("/*"), Just("*/"), Just("#"), Just(" "), Just("\u{a0}"),
            ],
            0..40,
        ),
    ) {
        let _ = parse(&tokens.concat());
    }
}
