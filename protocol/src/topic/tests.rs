use super::*;
use crate::id::ServerName;
use crate::limits::{RETAINED_BYTES_MAX, SUBSCRIPTIONS_MAX, TOPIC_SLASHES_MAX};
use proptest::prelude::*;

const DIGEST: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

fn device() -> Caller {
    Caller::from_common_name("acme:cam-1").expect("a device")
}

fn server() -> Caller {
    Caller::from_common_name("server:main").expect("a server")
}

/// How MQTT 5 matches, section 4.7, written without regard to the code above.
fn matches(filter: &str, topic: &str) -> bool {
    fn levels(filter: &[&str], topic: &[&str]) -> bool {
        match (filter, topic) {
            (["#"], _) => true,
            ([], []) => true,
            (["+", f @ ..], [_, t @ ..]) => levels(f, t),
            ([a, f @ ..], [b, t @ ..]) if a == b => levels(f, t),
            _ => false,
        }
    }
    let (f, t): (Vec<&str>, Vec<&str>) = (filter.split('/').collect(), topic.split('/').collect());
    !(topic.starts_with('$') && filter.starts_with(['+', '#'])) && levels(&f, &t)
}

/// One topic of each rule.
fn all_topics(device: &str, project: &str) -> Vec<String> {
    RULES
        .iter()
        .map(|rule| match rule.family {
            Family::Device => format!("sedge/1/d/{device}/{}", rule.levels.replace('+', "health")),
            Family::Bundle => format!("sedge/1/b/{project}:{DIGEST}/{}", rule.levels.replace('+', "3")),
        })
        .collect()
}

#[test]
fn topics_print_as_they_read() {
    for text in all_topics("acme:cam-1", "acme") {
        let topic: Topic = text.parse().expect(&text);
        assert_eq!(topic.to_string(), text);
        assert!(text.matches('/').count() <= TOPIC_SLASHES_MAX);
    }
    let name = "x".repeat(64);
    let longest = format!("sedge/1/d/{name}:{name}/t/{name}");
    assert!(longest.parse::<Topic>().is_ok() && longest.len() <= TOPIC_BYTES_MAX);
}

#[test]
fn what_is_no_topic_is_refused() {
    for text in [
        "",
        "sedge",
        "sedge/1/d/acme:cam-1",
        "sedge/1/d/acme:cam-1/",
        "sedge/1/d/acme:cam-1/s/",
        "/sedge/1/d/acme:cam-1/s",
        "sedge/2/d/acme:cam-1/s",
        "sedge/1/x/acme:cam-1/s",
        "sedge/1/d/acme/s",
        "sedge/1/d/+/s",
        "sedge/1/d/acme:+/s",
        "sedge/1/d/acme:cam-1/t",
        "sedge/1/d/acme:cam-1/t/+",
        "sedge/1/d/acme:cam-1/t/#",
        "sedge/1/d/acme:cam-1/t/a/b",
        "sedge/1/d/acme:cam-1/in/#",
        "sedge/1/d/acme:cam-1/in/x",
        "sedge/1/d/acme:cam-1/S",
        "sedge/1/b/acme:digits/m",
        &format!("sedge/1/b/acme:{}/m", DIGEST.to_uppercase()),
        &format!("sedge/1/b/acme:{DIGEST}/c"),
        &format!("sedge/1/b/acme:{DIGEST}/c/01"),
        &format!("sedge/1/b/acme:{DIGEST}/c/+1"),
        &format!("sedge/1/b/acme:{DIGEST}/c/8"),
        &format!("sedge/1/b/{DIGEST}/m"),
        "$SYS/broker/version",
        "$share/g/sedge/1/d/acme:cam-1/s",
        &"sedge/1/d/".repeat(100),
    ] {
        let e = text.parse::<Topic>().expect_err(text);
        assert!(e.to_string().contains("is not a topic of Sedge"), "{e}");
        for caller in [device(), server()] {
            assert!(!may_publish(&caller, text), "{caller} published to {text}");
        }
    }
}

#[test]
fn a_device_does_what_the_table_says_and_nothing_else() {
    for (rule, topic) in RULES.iter().zip(all_topics("acme:cam-1", "acme")) {
        assert_eq!(may_publish(&device(), &topic), rule.device == Access::Publish, "{topic}");
        assert_eq!(may_subscribe(&device(), &topic), rule.device == Access::Subscribe, "{topic}");
        assert_eq!(may_publish(&server(), &topic), rule.server != Access::Subscribe, "{topic}");
        assert_eq!(may_retain(&device(), &topic), rule.device == Access::Publish && rule.retained, "{topic}");
        assert_eq!(may_retain(&server(), &topic), rule.server != Access::Subscribe && rule.retained, "{topic}");
        let read = rule.server != Access::Publish;
        assert_eq!(may_subscribe(&server(), &topic), read, "{topic}");
    }
    // Its neighbour's, and another project's bundles, not at all.
    for topic in all_topics("acme:cam-10", "rival").into_iter().chain(all_topics("rival:cam-1", "rival")) {
        assert!(!may_publish(&device(), &topic), "{topic}");
        assert!(!may_subscribe(&device(), &topic), "{topic}");
    }
}

#[test]
fn filters_of_agent_and_server_are_allowed() {
    let Caller::Device(principal) = device() else { panic!("a device") };
    let bundle: BundleLevel = format!("acme:{DIGEST}").parse().expect("a bundle");
    let filters: Vec<String> = bundle_filters(&bundle).into_iter().chain([device_filter(&principal)]).collect();
    for filter in &filters {
        assert!(may_subscribe(&device(), filter), "{filter}");
    }
    assert!(may_subscribe(&device(), &format!("sedge/1/b/acme:{DIGEST}/c/+")));
    assert_eq!(server_filters().len(), 6);
    for filter in server_filters() {
        assert!(may_subscribe(&server(), &filter), "{filter}");
        assert!(!may_subscribe(&device(), &filter), "{filter}");
    }
    assert!(server_filters().len() + filters.len() < SUBSCRIPTIONS_MAX);
}

#[test]
fn filters_that_reach_too_far_are_refused() {
    for filter in [
        "#",
        "+",
        "+/#",
        "sedge/#",
        "sedge/1/#",
        "sedge/1/+/acme:cam-1/in/#",
        "sedge/1/d/#",
        "sedge/1/d/+/in/#",
        "sedge/1/d/+/#",
        "sedge/1/d/acme:cam-1/#",
        "sedge/1/d/acme:cam-1/+/s",
        "sedge/1/d/acme:cam-1/in/#/s",
        "sedge/1/d/acme:cam-1/in/s#",
        "sedge/1/d/acme:cam-1/in/s+",
        "sedge/1/d/acme:cam-1/in//",
        "sedge/1/d/acme:cam-1",
        "sedge/1/d/acme:+/in/#",
        "sedge/1/d/acme:#",
        "sedge/1/b/#",
        "sedge/1/b/+/m",
        "sedge/1/b/+/c/#",
        "sedge/1/b/acme:+/m",
        "$share/g/sedge/1/d/acme:cam-1/in/#",
        "$SYS/#",
        "$share/g/#",
        "sedge/1/d/acme:cam-1/in/s\0",
        &format!("sedge/1/b/acme:{DIGEST}/#"),
        &format!("sedge/1/b/rival:{DIGEST}/c/#"),
    ] {
        let whole_bundle = filter == format!("sedge/1/b/acme:{DIGEST}/#");
        assert_eq!(may_subscribe(&device(), filter), whole_bundle, "device: {filter}");
        assert!(!may_subscribe(&server(), filter), "server: {filter}");
    }
    // All that a device publishes in one level, and nothing that is for it.
    assert!(may_subscribe(&server(), "sedge/1/d/+/+") && !may_subscribe(&device(), "sedge/1/d/acme:cam-1/+"));
    assert!(may_subscribe(&server(), "sedge/1/d/+/t/#"));
    assert!(may_subscribe(&server(), "sedge/1/d/acme:cam-1/t/health"));
}

#[test]
fn callers_are_told_apart_by_their_common_names() {
    assert!(matches!(device(), Caller::Device(_)));
    assert!(matches!(server(), Caller::Server(_)));
    for name in ["", "acme", "server:", "server:a:b", ":", "acme:+", "acme:#", "acme:cam/1", "acme:cam 1"] {
        assert!(Caller::from_common_name(name).is_err(), "{name}");
    }
    for (id, allowed) in [
        ("acme:cam-1", true),
        ("acme:cam-1/bulk", true),
        ("acme:cam-10", false),
        ("acme:cam-1/", false),
        ("acme:cam-1/a/b", false),
        ("acme:cam", false),
        ("", false),
    ] {
        assert_eq!(may_use_client_id(&device(), id), allowed, "{id}");
    }
}

#[test]
fn the_mosquitto_file_says_what_the_table_says() {
    let main: ServerName = "main".parse().expect("a name");
    let several = mosquitto_acl(std::slice::from_ref(&main), Tenancy::Several);
    let one = mosquitto_acl(&[main], Tenancy::OneProject);
    assert!(one.contains("\npattern read sedge/1/b/+/m\n") && !several.contains("pattern read sedge/1/b"));
    assert!(several.contains("\nuser server:main\ntopic readwrite sedge/1/d/+/s\n"));
    // What the lines grant a device, read as Mosquitto reads them, against the functions.
    for (file, bundles) in [(&several, false), (&one, true)] {
        let granted = |verb: &str, topic: &str| {
            file.lines()
                .filter_map(|l| l.strip_prefix(&format!("pattern {verb} ")))
                .any(|pattern| matches(&pattern.replace("%u", "acme:cam-1"), topic))
        };
        let topics = all_topics("acme:cam-1", "acme").into_iter().chain(all_topics("acme:cam-10", "acme"));
        for topic in topics {
            assert_eq!(granted("write", &topic), may_publish(&device(), &topic), "{topic}");
            let expected = may_subscribe(&device(), &topic) && (bundles || !topic.starts_with("sedge/1/b/"));
            assert_eq!(granted("read", &topic), expected, "{topic}");
        }
    }
}

#[test]
fn retained_messages_are_small() {
    assert!(RULES.iter().filter(|rule| rule.retained).all(|rule| rule.bytes_max <= RETAINED_BYTES_MAX));
}

fn level() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(vec![
            "sedge", "1", "d", "b", "s", "t", "e", "r", "q", "want", "in", "c", "m", "ack", "chunk", "meta", "+", "#",
            "0", "3", "acme:cam-1", "acme:cam-10", "rival:cam-1", "server:main", "acme:+", "$share", "$SYS", "", "health",
        ]).prop_map(str::to_owned),
        1 => Just(format!("acme:{DIGEST}")),
        1 => Just(format!("rival:{DIGEST}")),
        1 => "[a-z:+#$]{0,4}",
    ]
}

fn path() -> impl Strategy<Value = String> {
    let free = prop::collection::vec(level(), 0..9);
    let near = ("[db]", prop::collection::vec(level(), 1..4))
        .prop_map(|(family, rest)| [vec!["sedge".to_owned(), "1".to_owned(), family], rest].concat());
    prop_oneof![free, near].prop_map(|levels| levels.join("/"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// Whatever a device may publish lies among its own topics and is a topic; whatever it may subscribe touches no
    /// topic of another device, of another project's bundles, or that it may only write.
    #[test]
    fn no_device_reaches_another(path in path(), other in path()) {
        if may_publish(&device(), &path) {
            prop_assert!(path.starts_with("sedge/1/d/acme:cam-1/") && !path.contains(['+', '#', '$']), "{}", path);
            prop_assert!(!path.contains("/in/"), "{}", path);
            prop_assert!(path.parse::<Topic>().is_ok());
        }
        if may_subscribe(&device(), &path) {
            let foreign = all_topics("acme:cam-10", "rival").into_iter().chain(all_topics("rival:cam-1", "rival"));
            for topic in foreign.chain(["$SYS/broker".to_owned()]) {
                prop_assert!(!matches(&path, &topic), "{} matches {}", path, topic);
            }
            for topic in all_topics("acme:cam-1", "acme").into_iter().chain([other]) {
                if topic.parse::<Topic>().is_ok() && matches(&path, &topic) {
                    prop_assert!(may_subscribe(&device(), &topic), "{} reaches {}", path, topic);
                    prop_assert!(!may_publish(&device(), &topic), "{} reaches {}", path, topic);
                }
            }
        }
    }

    #[test]
    fn what_parses_prints_the_same(path in path()) {
        if let Ok(topic) = path.parse::<Topic>() {
            prop_assert_eq!(topic.to_string(), path);
        }
    }
}
