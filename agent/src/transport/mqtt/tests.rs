//! One test for each way in which the library, the broker or the line fails. The broker is scripted, so that each
//! failure happens when it is meant to.

use super::*;
use crate::testing::broker::{Broker, Packet};
use sedge_protocol::id::Principal;

const PATIENCE: Duration = Duration::from_secs(30);

fn device() -> Principal {
    "acme:cam-7".parse().expect("name")
}

fn message(text: &str) -> Outgoing {
    Outgoing {
        topic: Topic::Device(device(), DeviceTopic::Event),
        payload: text.as_bytes().to_vec(),
        qos: Qos::AtLeastOnce,
        retain: false,
        expiry_s: None,
    }
}

fn status(text: String) -> Outgoing {
    let topic = Topic::Device(device(), DeviceTopic::Status);
    Outgoing { topic, payload: text.into_bytes(), qos: Qos::AtLeastOnce, retain: true, expiry_s: None }
}

fn config(broker: &Broker) -> MqttConfig {
    let mut config = MqttConfig::plaintext(broker.port, &device());
    config.pace.keep_alive = Duration::from_secs(5);
    config.pace.backoff_first = Duration::from_millis(20);
    config.pace.backoff_max = Duration::from_millis(50);
    config
}

fn start(config: MqttConfig) -> Mqtt {
    Mqtt::start(config, Box::new(|connection| status(format!("gone {connection}"))))
}

async fn next(line: &mut Mqtt) -> LineEvent {
    timeout(PATIENCE, line.next()).await.expect("an event")
}

async fn is_up(line: &mut Mqtt) -> (u64, bool) {
    match next(line).await {
        LineEvent::Up { connection, session_present, .. } => (connection, session_present),
        event => panic!("{event:?}"),
    }
}

async fn is_down(line: &mut Mqtt) -> String {
    match next(line).await {
        LineEvent::Down { reason } => reason,
        event => panic!("{event:?}"),
    }
}

#[tokio::test]
async fn it_connects_as_the_protocol_asks() {
    let broker = Broker::new().await;
    let mut config = config(&broker);
    config.pace.keep_alive = Duration::from_secs(KEEP_ALIVE_S.into());
    let _line = start(config);
    let connect = broker.up(false).await.connect;
    assert!(!connect.clean_start && connect.will_retain);
    assert_eq!((connect.keep_alive_s, connect.session_expiry_s), (30, 3600));
    assert_eq!((connect.packet_bytes_max, connect.receive_max), (120 * 1024, 32));
    assert_eq!((connect.client_id.as_str(), connect.will_topic.as_str()), ("acme:cam-7", "sedge/1/d/acme:cam-7/s"));
    assert_eq!((connect.will.as_slice(), connect.will_delay_s), (b"gone 1".as_slice(), 30));
    let caller = sedge_protocol::topic::Caller::Device(device());
    assert!(sedge_protocol::topic::may_use_client_id(&caller, &connect.client_id));
    assert!(sedge_protocol::topic::may_publish(&caller, &connect.will_topic));
}

#[tokio::test]
async fn each_connection_has_a_will_and_an_event_loop_of_its_own() {
    let broker = Broker::new().await;
    let mut line = start(config(&broker));
    let mut peer = broker.up(false).await;
    assert_eq!(is_up(&mut line).await, (1, false));
    for n in 0..20 {
        line.publish(Token(n), message("lost")).expect("taken");
    }
    peer.publish().await.expect("arrives");
    peer.drop_link();
    is_down(&mut line).await;
    // The session is there, so the library would send 19 again, and 20 again after the next break.
    let mut peer = broker.up(true).await;
    assert_eq!((is_up(&mut line).await, peer.connect.will.as_slice()), ((2, true), b"gone 2".as_slice()));
    line.publish(Token(99), message("only this")).expect("taken");
    let (_, payload, id) = peer.publish().await.expect("arrives");
    assert_eq!(payload, b"only this");
    peer.puback(id, 0).await;
    assert_eq!(next(&mut line).await, LineEvent::Delivered(Token(99)));
}

#[tokio::test]
async fn tokens_follow_their_publishes_however_they_are_acknowledged() {
    let broker = Broker::new().await;
    let mut line = start(config(&broker));
    let mut peer = broker.up(false).await;
    is_up(&mut line).await;
    let mut ids = Vec::new();
    for n in 0..10 {
        if n % 3 == 0 {
            line.publish(Token(1000), Outgoing { qos: Qos::AtMostOnce, ..message("bulk") }).expect("taken");
        }
        line.publish(Token(n), message(&n.to_string())).expect("taken");
    }
    while ids.len() < 10 {
        let (_, payload, id) = peer.publish().await.expect("arrives");
        if id != 0 {
            ids.push((id, String::from_utf8(payload).expect("text").parse::<u64>().expect("number")));
        }
    }
    for (id, n) in ids.into_iter().rev() {
        peer.puback(id, 0).await;
        assert_eq!(next(&mut line).await, LineEvent::Delivered(Token(n)));
    }
}

#[tokio::test]
async fn a_message_above_the_brokers_limit_is_not_handed_over() {
    let broker = Broker::new().await;
    let mut line = start(config(&broker));
    let mut peer = broker.accept().await;
    peer.connack(false, &[&[0x27], 1000u32.to_be_bytes().as_slice()].concat()).await;
    let LineEvent::Up { packet_bytes_max: 1000, .. } = next(&mut line).await else { panic!("another limit") };
    let (topic, payload) = ("sedge/1/d/acme:cam-7/e", "x".repeat(5000));
    let e = line.publish(Token(1), message(&payload)).expect_err("too long");
    assert!(matches!(e, HandOverError::TooLong { bytes_max: 1000, length, .. } if length > 5000), "{e}");
    assert!(e.to_string().contains(topic), "{e}");
    // To the byte: what fits exactly goes through.
    let around = publish_bytes(&message(""));
    let fits = "y".repeat(1000 - around - 1);
    assert_eq!(publish_bytes(&message(&fits)), 1000);
    assert!(line.publish(Token(2), message(&format!("{fits}y"))).is_err());
    line.publish(Token(3), message(&fits)).expect("taken");
    assert_eq!(peer.publish().await.expect("arrives").1, fits.as_bytes());
}

#[tokio::test]
async fn packets_of_the_agreed_size_arrive_and_larger_ones_break_the_line_only() {
    let broker = Broker::new().await;
    let mut line = start(config(&broker));
    let mut peer = broker.up(false).await;
    is_up(&mut line).await;
    let chunk = "sedge/1/d/acme:cam-7/in/chunk";
    peer.send(chunk, &vec![1; 118 * 1024], 0).await;
    assert!(matches!(next(&mut line).await, LineEvent::Incoming { payload, .. } if payload.len() == 118 * 1024));
    peer.send(chunk, &vec![1; 121 * 1024], 0).await;
    is_down(&mut line).await;
    broker.up(false).await;
    assert_eq!(is_up(&mut line).await.0, 2);
}

#[tokio::test]
async fn control_is_never_dropped_and_chunks_are() {
    let broker = Broker::new().await;
    let mut line = start(config(&broker));
    let mut peer = broker.up(false).await;
    is_up(&mut line).await;
    let sent = 400u16;
    let sender = tokio::spawn(async move {
        for n in 1..=sent {
            peer.send("sedge/1/d/acme:cam-7/in/chunk", &n.to_be_bytes(), 0).await;
            peer.send("sedge/1/d/acme:cam-7/in/ack", &n.to_be_bytes(), n).await;
        }
        while let Some(packet) = peer.next().await {
            if packet == Packet::PubAck(sent) {
                return peer;
            }
        }
        panic!("the line broke");
    });
    let (mut expected, mut chunks) = (1, 0);
    while expected <= sent {
        match next(&mut line).await {
            LineEvent::Incoming { topic: Topic::Device(_, DeviceTopic::Ack), payload } => {
                assert_eq!(payload, expected.to_be_bytes());
                expected += 1;
            }
            LineEvent::Incoming { .. } => chunks += 1,
            event => panic!("{event:?}"),
        }
    }
    let _peer = sender.await.expect("acknowledged");
    while timeout(Duration::from_millis(1), line.next()).await.is_ok() {
        chunks += 1;
    }
    assert_eq!(chunks + line.dropped_chunks(), u64::from(sent));
    assert!(line.dropped_chunks() > 0);
}

#[tokio::test]
async fn a_half_open_line_shows_after_two_keep_alives() {
    let broker = Broker::new().await;
    let mut line = start(config(&broker));
    let mut peer = broker.up(false).await;
    is_up(&mut line).await;
    let began = Instant::now();
    // Reads everything and answers no ping.
    let silent = tokio::spawn(async move { while peer.next().await.is_some() {} });
    is_down(&mut line).await;
    assert!((9..=12).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    silent.await.expect("closed");
    broker.up(true).await;
    assert_eq!(is_up(&mut line).await, (2, true));
}

#[tokio::test]
async fn a_blocked_write_does_not_hang_for_ever() {
    let broker = Broker::new().await;
    let mut config = config(&broker);
    config.pace.poll_max = Duration::from_secs(2);
    let mut line = start(config);
    // Accepts and never reads again.
    let _peer = broker.up(false).await;
    is_up(&mut line).await;
    let large = Outgoing { qos: Qos::AtMostOnce, ..message(&"x".repeat(100 * 1024)) };
    let full = (0..).find_map(|n| {
        std::thread::sleep(Duration::from_micros(100));
        line.publish(Token(n), large.clone()).err()
    });
    assert_eq!(full, Some(HandOverError::Full));
    assert_eq!(is_down(&mut line).await, "nothing moved for 2 s");
    let _peer = broker.up(true).await;
    is_up(&mut line).await;
    line.publish(Token(1), large).expect("taken again");
}

#[tokio::test]
async fn a_broker_that_never_acknowledges_is_left() {
    let broker = Broker::new().await;
    let mut config = config(&broker);
    config.pace.ack_max = Duration::from_secs(2);
    let mut line = start(config);
    let mut peer = broker.up(false).await;
    is_up(&mut line).await;
    line.publish(Token(1), message("never acknowledged")).expect("taken");
    // Pings are answered, so that only the missing acknowledgement shows.
    let answering = tokio::spawn(async move { while peer.publish().await.is_some() {} });
    assert_eq!(is_down(&mut line).await, "the broker has not acknowledged a publish for 2 s");
    answering.await.expect("closed");
}

#[tokio::test]
async fn a_refused_publish_is_told_and_blocks_nothing() {
    let broker = Broker::new().await;
    let mut line = start(config(&broker));
    let mut peer = broker.up(false).await;
    is_up(&mut line).await;
    line.publish(Token(1), message("not authorized")).expect("taken");
    let (_, _, id) = peer.publish().await.expect("arrives");
    peer.puback(id, 0x87).await;
    let LineEvent::Refused { token: Token(1), reason } = next(&mut line).await else { panic!("not refused") };
    assert_eq!(reason, "NotAuthorized");
    // One id stays open until the numbers come round to it; the publish that wants it is parked, and its id refused.
    let mut open = None;
    for n in 0..32 {
        line.publish(Token(n), message("next")).expect("taken");
        let (_, _, id) = peer.publish().await.expect("arrives");
        if open.is_none() {
            open = Some(id);
            continue;
        }
        peer.puback(id, 0).await;
        next(&mut line).await;
    }
    line.publish(Token(50), message("parked")).expect("taken");
    peer.puback(open.expect("an id"), 0x87).await;
    let mut events = vec![next(&mut line).await];
    while !matches!(events.last(), Some(LineEvent::Refused { .. })) {
        events.push(next(&mut line).await);
    }
    // Either it was not yet parked and goes out, or the connection is made anew; it never hangs.
    let (down, _) = tokio::join!(timeout(Duration::from_secs(5), line.next()), peer.publish());
    if let Ok(LineEvent::Down { reason }) = down {
        assert_eq!(reason, "a refused publish left another one waiting");
    }
}

#[tokio::test]
async fn what_is_no_message_of_ours_and_what_breaks_the_protocol_do_no_harm() {
    let broker = Broker::new().await;
    let mut line = start(config(&broker));
    let mut peer = broker.up(false).await;
    is_up(&mut line).await;
    peer.send("other/topic", b"x", 0).await;
    peer.send("sedge/1/d/acme:cam-7/in/nothing", b"x", 7).await;
    peer.send("sedge/1/d/acme:cam-7/in/ack", b"mine", 8).await;
    assert!(matches!(next(&mut line).await, LineEvent::Incoming { payload, .. } if payload == b"mine"));
    drop(peer);
    is_down(&mut line).await;
    for garbage in [
        &[0xff; 64][..],
        &[0x32, 5, 0, 200, b'x', 0, 0],
        &[0x30, 3, 0, 1, b'x'],
        &[0x40, 2, 0, 77],
        &[0x50, 2, 0, 1],
        &[0x20, 3, 0, 0, 0],
        &[0x30, 0xff, 0xff, 0xff, 0x7f],
    ] {
        let mut peer = broker.up(false).await;
        is_up(&mut line).await;
        peer.write(garbage).await;
        let closed = tokio::spawn(async move { peer.next().await });
        let event = next(&mut line).await;
        assert!(matches!(event, LineEvent::Down { .. }), "{garbage:x?}: {event:?}");
        closed.await.expect("closed");
    }
}

#[tokio::test]
async fn without_a_connection_nothing_is_taken_and_closing_says_goodbye() {
    let broker = Broker::new().await;
    let mut line = start(config(&broker));
    assert_eq!(line.publish(Token(1), message("x")), Err(HandOverError::Down));
    assert_eq!(line.subscribe(&["sedge/1/d/acme:cam-7/in/#".to_owned()]), Err(HandOverError::Down));
    let mut peer = broker.up(false).await;
    is_up(&mut line).await;
    line.subscribe(&["sedge/1/d/acme:cam-7/in/#".to_owned()]).expect("taken");
    let Some(Packet::Subscribe { filters, .. }) = peer.next().await else { panic!("no subscription") };
    assert_eq!(filters, ["sedge/1/d/acme:cam-7/in/#"]);
    line.close(Some(status("bye".to_owned()))).await;
    let Some(Packet::Publish { retain: true, dup: false, payload, .. }) = peer.next().await else {
        panic!("no status")
    };
    assert_eq!(payload, b"bye");
    assert_eq!(peer.next().await, Some(Packet::Disconnect));
}

#[tokio::test]
async fn a_receive_maximum_of_one_is_respected() {
    let broker = Broker::new().await;
    let mut line = start(config(&broker));
    let mut peer = broker.accept().await;
    peer.connack(false, &[0x21, 0, 1]).await;
    let LineEvent::Up { in_flight_max: 1, .. } = next(&mut line).await else { panic!("another limit") };
    line.publish(Token(1), message("1")).expect("taken");
    line.publish(Token(2), message("2")).expect("taken");
    let (_, payload, id) = peer.publish().await.expect("arrives");
    assert_eq!(payload, b"1");
    assert!(timeout(Duration::from_millis(200), peer.next()).await.is_err(), "the second must wait");
    peer.puback(id, 0).await;
    assert_eq!(peer.publish().await.expect("arrives").1, b"2");
}

#[test]
fn pauses_grow_have_jitter_and_a_cap() {
    let pace = Pace::default();
    let draws = |failures| (0..200).map(|_| backoff(&pace, failures)).collect::<Vec<_>>();
    assert!(draws(40).iter().all(|d| *d <= Duration::from_secs(60)));
    assert!(draws(40).iter().any(|d| *d > Duration::from_secs(30)));
    assert!(draws(1).iter().all(|d| *d <= Duration::from_secs(1)));
    assert!(draws(5).windows(2).any(|w| w[0] != w[1]));
}
