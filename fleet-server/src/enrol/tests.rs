use super::*;
use std::path::Path;

/// `docs/protocol/enrolment.md` shows the words; `SEDGE_WRITE_DOCS=1` writes them.
#[test]
fn the_words_are_those_of_the_document() {
    const BEGIN: &str = "<!-- codes: written by a test -->\n";
    const END: &str = "<!-- end of codes -->";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/protocol/enrolment.md");
    let text = std::fs::read_to_string(&path).expect("the document");
    let (before, rest) = text.split_once(BEGIN).expect("a beginning");
    let (shown, after) = rest.split_once(END).expect("an end");
    if std::env::var_os("SEDGE_WRITE_DOCS").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{}{END}{after}", codes_table())).expect("written");
        return;
    }
    assert_eq!(shown, codes_table(), "run the test with SEDGE_WRITE_DOCS=1");
}

#[test]
fn every_refusal_says_what_to_do() {
    for line in codes_table().lines().skip(2) {
        let message = line.split('|').nth(4).expect("a message");
        assert!(message.contains("; "), "{message}");
    }
}

#[test]
fn no_project_is_called_like_the_servers() {
    assert_eq!(refuse_reserved(&"server".parse().expect("a name")), Err(Refused::ProjectReserved));
    assert_eq!(refuse_reserved(&"servers".parse().expect("a name")), Ok(()));
}
