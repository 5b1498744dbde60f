use super::*;
use std::net::{TcpListener, UdpSocket};

fn parse(text: &str) -> Publish {
    Publish::parse(text).unwrap()
}

#[test]
fn dockers_forms() {
    let any = Ipv4Addr::UNSPECIFIED;
    let local = Ipv4Addr::LOCALHOST;
    for (text, ip, host, container, transport) in [
        ("80", any, None, (80, 80), Transport::Tcp),
        ("8080:80", any, Some((8080, 8080)), (80, 80), Transport::Tcp),
        (":80", any, None, (80, 80), Transport::Tcp),
        ("53:53/udp", any, Some((53, 53)), (53, 53), Transport::Udp),
        ("127.0.0.1:8080:80/tcp", local, Some((8080, 8080)), (80, 80), Transport::Tcp),
        ("127.0.0.1::80", local, None, (80, 80), Transport::Tcp),
        ("127.0.0.1:80", local, None, (80, 80), Transport::Tcp),
        ("8000-8002:80-82", any, Some((8000, 8002)), (80, 82), Transport::Tcp),
        ("8000-8002:80", any, Some((8000, 8002)), (80, 80), Transport::Tcp),
        ("80-82", any, None, (80, 82), Transport::Tcp),
    ] {
        assert_eq!(parse(text), Publish { ip, host, container, transport }, "{text}");
    }
}

#[test]
fn what_is_no_port_is_refused() {
    for (text, why) in [
        ("", "not a port"),
        ("http", "not a port"),
        ("0:80", "not a port"),
        ("80:0", "not a port"),
        ("65536", "not a port"),
        ("+80", "not a port"),
        ("80:", "not a port"),
        ("80/sctp", "\"sctp\" is not forwarded"),
        ("80/", "\"\" is not forwarded"),
        ("82-80", "ends before it begins"),
        ("8000-8003:80-82", "not of the same length"),
        ("8000:80-82", "not of the same length"),
        ("[::1]:8080:80", "IPv4 addresses only"),
        ("::1:8080:80", "IPv4 addresses only"),
        ("localhost:8080:80", "not an IPv4 address"),
        ("1.2.3:8080:80", "not an IPv4 address"),
        ("1.2.3.4.5:80", "not an IPv4 address"),
    ] {
        let error = format!("{:#}", Publish::parse(text).expect_err(text));
        assert!(error.contains(why), "{text}: {error}");
    }
}

#[test]
fn a_reserved_port_is_one_that_can_be_listened_on() {
    let reserved = Reserved::take(&[parse("127.0.0.1::80"), parse("127.0.0.1::53/udp")], &[]).unwrap();
    let [tcp, udp] = &reserved.ports[..] else { panic!("{reserved:?}") };
    assert_eq!(tcp.to_string(), format!("127.0.0.1:{}->80/tcp", tcp.host));
    assert!(tcp.host > 0 && udp.host > 0);
    // As QEMU does it: std sets SO_REUSEADDR.
    let _listener = TcpListener::bind((tcp.ip, tcp.host)).unwrap();
    let _socket = UdpSocket::bind((udp.ip, udp.host)).unwrap();
    for taken in [format!("127.0.0.1:{}:80", tcp.host), format!("127.0.0.1:{}:53/udp", udp.host)] {
        let error = Reserved::take(&[parse(&taken)], &[]).unwrap_err().to_string();
        assert!(error.contains("127.0.0.1: it is taken"), "{taken}: {error}");
    }
}

#[test]
fn of_a_range_the_first_free_one() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let Some(last) = port.checked_add(20) else { return };
    let reserved = Reserved::take(&[parse(&format!("127.0.0.1:{port}-{last}:80"))], &[]).unwrap();
    assert!((port + 1..=last).contains(&reserved.ports[0].host), "{reserved:?}");
}

#[test]
fn a_port_is_not_given_twice() {
    let port = Reserved::take(&[parse("80")], &[]).unwrap().ports[0].host;
    let twice = [parse(&format!("{port}:80")), parse(&format!("127.0.0.1:{port}:81"))];
    assert!(Reserved::take(&twice, &[]).unwrap_err().to_string().contains("asked for twice"));
    assert!(
        Reserved::take(&[parse("9.9.9.9:0080:80")], &[]).unwrap_err().to_string().contains("no such address")
    );
    let many = [(Transport::Tcp, 1, u16::MAX)];
    assert!(Reserved::take(&[], &many).unwrap_err().to_string().contains("at most"));
}

#[test]
fn all_that_is_exposed_and_not_published_yet() {
    let exposed = [exposed("80").unwrap(), exposed("443/tcp").unwrap(), exposed("53/udp").unwrap()];
    let reserved = Reserved::take(&[parse("80")], &exposed).unwrap();
    let containers: Vec<_> = reserved.ports.iter().map(|port| (port.container, port.transport)).collect();
    assert_eq!(containers, [(80, Transport::Tcp), (443, Transport::Tcp), (53, Transport::Udp)]);
    assert!(super::exposed("http").is_err());
}
