use super::*;
use crate::network::dhcp::tests::{MAC, XID, reply};

/// An option's number and bytes.
type Field = (u8, &'static [u8]);

const GOOD: [Field; 5] = [
    (KIND, &[5]),
    (SERVER, &[10, 0, 0, 1]),
    (LEASE, &[0, 0, 0, 100]),
    (MASK, &[255, 255, 255, 0]),
    (ROUTER, &[10, 0, 0, 254, 10, 0, 0, 253]),
];

/// The good options, with these in the place of those of the same number.
fn with(options: &[(u8, &[u8])]) -> Option<Lease> {
    let kept = GOOD.iter().filter(|(code, _)| options.iter().all(|(other, _)| code != other));
    let all: Vec<_> = kept.chain(options).copied().collect();
    match parse(&reply([10, 0, 0, 7], &all), XID, MAC) {
        Some(Reply::Ack(lease)) => Some(lease),
        _ => None,
    }
}

#[test]
fn a_request_as_servers_know_it() {
    let request = Request {
        kind: Kind::Request,
        xid: XID,
        mac: MAC,
        seconds: 3,
        mine: None,
        wanted: Some([10, 0, 0, 7].into()),
        server: Some([10, 0, 0, 1].into()),
        hostname: Some("db"),
    };
    let bytes = request.write();
    assert_eq!(bytes[..12], [1, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef, 0, 3, 0x80, 0]);
    assert_eq!((&bytes[28..34], &bytes[236..240]), (&MAC[..], &MAGIC[..]));
    assert_eq!(bytes.len(), 300);
    let options = &bytes[240..];
    assert_eq!(option(options, KIND), [3]);
    assert_eq!(option(options, WANTED_ADDRESS), [10, 0, 0, 7]);
    assert_eq!(option(options, SERVER), [10, 0, 0, 1]);
    assert_eq!(option(options, CLIENT), [1, 2, 0, 0, 0, 0, 9]);
    assert_eq!(option(options, HOSTNAME), b"db");
    let renewal = Request { mine: Some([10, 0, 0, 7].into()), ..request }.write();
    assert_eq!(renewal[10..16], [0, 0, 10, 0, 0, 7]);
}

#[test]
fn what_a_server_gives() {
    let lease = with(&[
        (DNS, &[10, 0, 0, 3, 0, 0, 0, 0, 10, 0, 0, 4]),
        (DOMAIN, b"example.org lab\0"),
        (MTU, &[5, 0]),
    ])
    .unwrap();
    assert_eq!(lease.subnet.to_string(), "10.0.0.7/24");
    assert_eq!(lease.routes, [Route { to: everywhere(), via: Some("10.0.0.254".parse().unwrap()) }]);
    assert_eq!(lease.dns.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.3", "10.0.0.4"]);
    assert_eq!(lease.search, ["example.org", "lab"]);
    assert_eq!((lease.mtu, lease.seconds, lease.renew, lease.rebind), (Some(1280), 100, 50, 87));
    // In two pieces, with padding between.
    let split = reply([10, 0, 0, 7], &[GOOD[0], GOOD[1], (LEASE, &[0, 0]), (PAD, &[]), (LEASE, &[1, 0])]);
    assert!(matches!(parse(&split, XID, MAC), Some(Reply::Ack(lease)) if lease.seconds == 256));
    assert_eq!(parse(&reply([0; 4], &[(KIND, &[6])]), XID, MAC), Some(Reply::Nak));
}

#[test]
fn classless_routes_take_the_routers_place() {
    let listed = [24, 192, 168, 1, 10, 0, 0, 2, 0, 10, 0, 0, 1, 32, 169, 254, 169, 254, 0, 0, 0, 0];
    let lease = with(&[(ROUTES, &listed)]).unwrap();
    let shown: Vec<_> = lease.routes.iter().map(|route| (route.to.to_string(), route.via)).collect();
    let via = |text: &str| Some(text.parse().unwrap());
    let wanted = [
        ("192.168.1.0/24".to_owned(), via("10.0.0.2")),
        ("0.0.0.0/0".to_owned(), via("10.0.0.1")),
        ("169.254.169.254/32".to_owned(), None),
    ];
    assert_eq!(shown, wanted);
    for bad in [&[33, 1, 2, 3, 4, 10, 0, 0, 1][..], &[24, 1, 2], &[0, 10, 0, 0], &[0, 255, 0, 0, 1]] {
        assert_eq!(with(&[(ROUTES, bad)]).unwrap().routes.len(), 1, "{bad:?}: the router's is left");
    }
    let many = [32, 10, 1, 1, 1, 10, 0, 0, 1].repeat(100);
    let pieces: Vec<(u8, &[u8])> = many.chunks(255).map(|piece| (ROUTES, piece)).collect();
    assert_eq!(with(&pieces).unwrap().routes.len(), MOST_ROUTES);
}

#[test]
fn odd_values_do_no_harm() {
    assert_eq!(with(&[(DOMAIN, b"a\nnameserver 1.2.3.4")]).unwrap().search, ["1.2.3.4"]);
    assert_eq!(with(&[(DOMAIN, &[0xff, 0xfe])]).unwrap().search, [""; 0]);
    assert_eq!(with(&[(MTU, &[0, 1])]).unwrap().mtu, None);
    assert_eq!(with(&[(ROUTER, &[0, 0, 0, 0])]).unwrap().routes, []);
    assert_eq!(with(&[(MASK, &[])]).unwrap().subnet.length, 8);
    let times = |renew: &[u8], rebind: &[u8]| {
        let lease = with(&[(RENEW, renew), (REBIND, rebind)]).unwrap();
        (lease.renew, lease.rebind)
    };
    assert_eq!(times(&[0, 0, 0, 10], &[0, 0, 0, 20]), (10, 20));
    assert_eq!(times(&[0, 0, 0, 30], &[0, 0, 0, 20]), (20, 20));
    assert_eq!(times(&[0, 0, 0, 90], &[0, 0, 0, 100]), (50, 87));
    assert_eq!(times(&[0; 9], &[1]), (50, 87));
    assert_eq!(times(&[0; 4], &[0; 4]).0, 1);
    let forever = with(&[(LEASE, &[0xff; 4])]).unwrap();
    assert!(forever.renew < forever.rebind && forever.rebind < forever.seconds);
}

#[test]
fn bad_packets_are_no_replies() {
    let rows: [(&str, &[Field]); 12] = [
        ("no kind", &[(KIND, &[])]),
        ("a client's kind", &[(KIND, &[3])]),
        ("a kind of two bytes", &[(KIND, &[5, 5])]),
        ("no server", &[(SERVER, &[])]),
        ("half a server", &[(SERVER, &[10, 0])]),
        ("server for all", &[(SERVER, &[255; 4])]),
        ("no lease", &[(LEASE, &[])]),
        ("a lease of no time", &[(LEASE, &[0; 4])]),
        ("a lease of five bytes", &[(LEASE, &[0, 0, 0, 0, 9])]),
        ("a mask with a hole", &[(MASK, &[255, 0, 255, 0])]),
        ("a mask of three bytes", &[(MASK, &[255, 255, 255])]),
        ("an early end", &[(KIND, &[]), (END, &[]), (KIND, &[5])]),
    ];
    for (what, options) in rows {
        assert_eq!(with(options), None, "{what}");
    }
    let good = reply([10, 0, 0, 7], &GOOD);
    assert!(parse(&good, XID, MAC).is_some());
    assert_eq!(parse(&good, XID + 1, MAC), None, "another's transaction");
    assert_eq!(parse(&good, XID, [2; 6]), None, "another's MAC");
    for (what, address) in [("none", [0; 4]), ("loopback", [127, 0, 0, 1]), ("for all", [255; 4])] {
        assert_eq!(parse(&reply(address, &GOOD), XID, MAC), None, "{what}");
    }
    for (at, value) in [(0, 1), (1, 6), (2, 16), (236, 0)] {
        let mut bad = good.clone();
        bad[at] = value;
        assert_eq!(parse(&bad, XID, MAC), None, "byte {at}");
    }
    // Cut anywhere: never more than was there.
    for length in 0..good.len() {
        if let Some(Reply::Ack(lease)) = parse(&good[..length], XID, MAC) {
            assert_eq!(lease.seconds, 100);
        }
    }
}
