//! What DHCP servers say, to a client that goes through its states: pieces of the input, each with seconds that pass before
//! it, are packets. What is accepted makes sense, and the client always waits before it goes on by itself.
#![cfg_attr(fuzzing, no_main)]

use fuzz::libfuzzer_sys::fuzz_target;
use std::net::IpAddr;

#[allow(dead_code)]
#[path = "../../tether/src/network/dhcp/mod.rs"]
mod dhcp;

use dhcp::packet::Lease;
use dhcp::{Client, Order};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
/// Seconds, and the length of a packet.
const HEAD: usize = 4;

fuzz_target!(|input: &[u8]| {
    let mut now = 0;
    let mut client = Client::new(MAC, Some("host".to_owned()), 1, now);
    let mut xid = [0; 4];
    let mut held = false;
    let mut rest = input;
    while let Some((head, after)) = rest.split_first_chunk::<HEAD>() {
        let length = usize::from(u16::from_le_bytes([head[2], head[3]])).min(after.len());
        let (piece, after) = after.split_at(length);
        rest = after;
        now += u64::from(u16::from_le_bytes([head[0], head[1]])) * 1000;
        let orders = client.tick(now);
        assert!(client.next() > now);
        take(&orders, &mut xid, &mut held);
        // Else nearly all would end at the first check.
        let mut packet = piece.to_vec();
        if packet.len() > 34 {
            packet[4..8].copy_from_slice(&xid);
            packet[28..34].copy_from_slice(&MAC);
        }
        take(&client.receive(now, &packet), &mut xid, &mut held);
    }
    assert_eq!(client.release().is_some(), held);
});

fn take(orders: &[Order], xid: &mut [u8; 4], held: &mut bool) {
    assert!(orders.len() <= 2);
    for order in orders {
        match order {
            Order::Send(_, bytes) => {
                assert!((300..=576).contains(&bytes.len()));
                xid.copy_from_slice(&bytes[4..8]);
            }
            Order::Take(lease) => {
                check(lease);
                *held = true;
            }
            Order::Drop => {
                assert!(*held);
                *held = false;
            }
        }
    }
}

fn check(lease: &Lease) {
    let IpAddr::V4(ip) = lease.subnet.ip else { panic!("{lease:?}") };
    assert!(!ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast() && lease.subnet.length <= 32);
    assert!(lease.routes.len() <= 32 && lease.dns.len() <= 3 && lease.search.len() <= 6);
    assert!(lease.routes.iter().all(|route| route.to.length <= 32 && route.to.ip.is_ipv4()));
    assert!(lease.search.iter().all(|word| word.bytes().all(|byte| byte.is_ascii_graphic())));
    assert!(lease.seconds > 0 && lease.mtu.is_none_or(|mtu| (576..=65535).contains(&mtu)));
}
