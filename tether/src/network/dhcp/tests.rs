use super::*;

pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
pub const XID: u32 = 0xdead_beef;
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const ALL: Ipv4Addr = Ipv4Addr::BROADCAST;

/// A server's packet with these options; 0 and 255 have no length.
pub fn reply(address: [u8; 4], options: &[(u8, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![2, 1, 6, 0];
    bytes.extend(XID.to_be_bytes());
    bytes.resize(16, 0);
    bytes.extend(address);
    bytes.resize(28, 0);
    bytes.extend(MAC);
    bytes.resize(236, 0);
    bytes.extend([99, 130, 83, 99]);
    for (code, data) in options {
        bytes.push(*code);
        if !matches!(*code, 0 | 255) {
            bytes.push(u8::try_from(data.len()).unwrap());
            bytes.extend_from_slice(data);
        }
    }
    bytes.push(255);
    bytes
}

/// A reply of this kind to the client's newest request: 100 seconds.
fn answer(client: &Client, kind: u8) -> Vec<u8> {
    let server = SERVER.octets();
    let options: [(u8, &[u8]); 4] =
        [(53, &[kind]), (54, &server), (51, &[0, 0, 0, 100]), (1, &[255, 255, 255, 0])];
    let mut bytes = reply([10, 0, 0, 7], &options);
    bytes[4..8].copy_from_slice(&client.xid.to_be_bytes());
    bytes
}

/// To whom it speaks, as what, with which address of its own.
fn said(orders: &[Order]) -> (Ipv4Addr, u8, [u8; 4]) {
    let Some(Order::Send(to, bytes)) = orders.last() else { panic!("{orders:?}") };
    assert_eq!(bytes[240..242], [53, 1]);
    (*to, bytes[242], bytes[12..16].try_into().unwrap())
}

fn bound() -> Client {
    let mut client = Client::new(MAC, None, XID, 0);
    client.tick(0);
    client.receive(0, &answer(&client, 2));
    let orders = client.receive(0, &answer(&client, 5));
    assert!(matches!(&orders[..], [Order::Take(lease)] if lease.seconds == 100), "{orders:?}");
    client
}

#[test]
fn discover_offer_request_ack() {
    let mut client = Client::new(MAC, Some("db".into()), XID, 500);
    assert_eq!(client.next(), 500);
    assert_eq!(said(&client.tick(500)), (ALL, 1, [0; 4]));
    assert_eq!(client.tick(600), []);
    assert_eq!(client.receive(700, &answer(&client, 5)), [], "an ack that nobody has asked for");
    let orders = client.receive(700, &answer(&client, 2));
    assert_eq!(said(&orders), (ALL, 3, [0; 4]));
    assert_eq!(client.receive(700, &answer(&client, 2)), [], "a second offer comes too late");
    let orders = client.receive(800, &answer(&client, 5));
    assert!(matches!(&orders[..], [Order::Take(_)]), "{orders:?}");
    assert_eq!(client.next(), 700 + 50_000);
    assert_eq!(client.receive(900, &answer(&client, 6)), [], "a no that nobody has asked for");
}

#[test]
fn it_is_said_again_until_someone_answers() {
    let mut client = Client::new(MAC, None, XID, 0);
    let mut waits = vec![];
    for _ in 0..7 {
        let now = client.next();
        assert_eq!(said(&client.tick(now)).1, 1);
        waits.push((client.next() - now) / 1000);
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 16, 16]);
    client.receive(client.next, &answer(&client, 2));
    let kinds: Vec<_> = (0..5).map(|_| said(&client.tick(client.next)).1).collect();
    assert_eq!(kinds, [3, 3, 3, 1, 1], "the one who offered is silent, so others are asked");
}

#[test]
fn more_time_is_asked_for() {
    let mut client = bound();
    assert_eq!(client.tick(49_999), []);
    assert_eq!(said(&client.tick(50_000)), (SERVER, 3, [10, 0, 0, 7]));
    let orders = client.receive(50_100, &answer(&client, 5));
    assert!(matches!(&orders[..], [Order::Take(_)]), "{orders:?}");
    assert_eq!(client.next(), 100_000, "half of the time from the request on");
    // Now it says nothing more: then all are asked.
    assert_eq!(said(&client.tick(100_000)).0, SERVER);
    assert_eq!(client.next(), 137_000);
    assert_eq!(said(&client.tick(137_000)), (ALL, 3, [10, 0, 0, 7]));
    assert_eq!(client.next(), 150_000);
    let orders = client.tick(150_000);
    assert_eq!(orders[0], Order::Drop);
    assert_eq!(said(&orders), (ALL, 1, [0; 4]));
}

#[test]
fn one_that_slept_over_the_end_begins_anew() {
    let orders = bound().tick(1_000_000);
    assert_eq!((&orders[0], said(&orders).1), (&Order::Drop, 1));
    let mut client = bound();
    assert_eq!(said(&client.tick(90_000)).0, ALL, "past the time for its own server");
}

#[test]
fn a_no_is_heeded_but_not_at_once() {
    let mut client = bound();
    client.tick(50_000);
    let no = answer(&client, 6);
    assert_eq!(client.receive(50_100, &no), [Order::Drop]);
    assert_eq!(client.next(), 51_100);
    assert_eq!(client.receive(50_200, &no), [], "it was to another request");
    assert_eq!(said(&client.tick(51_100)).1, 1);
    client.receive(51_200, &answer(&client, 2));
    assert_eq!(client.receive(51_300, &answer(&client, 6)), []);
    assert_eq!(client.next(), 52_300);
}

#[test]
fn what_is_for_ever_is_never_renewed() {
    let mut client = Client::new(MAC, None, XID, 0);
    client.tick(0);
    client.receive(0, &answer(&client, 2));
    let options: [(u8, &[u8]); 3] = [(53, &[5]), (54, &SERVER.octets()), (51, &[255; 4])];
    let orders = client.receive(0, &reply([10, 0, 0, 7], &options));
    assert!(matches!(&orders[..], [Order::Take(_)]), "{orders:?}");
    assert!(client.next() > 1 << 40);
}

#[test]
fn the_end_gives_it_back() {
    assert_eq!(Client::new(MAC, None, XID, 0).release(), None);
    let order = bound().release().unwrap();
    assert_eq!(said(&[order]), (SERVER, 7, [10, 0, 0, 7]));
}
