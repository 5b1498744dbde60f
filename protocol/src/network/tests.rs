use super::*;

fn nic() -> Nic {
    Nic {
        mac: Mac([2, 0, 0, 0, 0, 1]),
        name: "eth0".into(),
        addresses: vec!["10.0.2.15/24".parse().unwrap()],
        routes: vec![],
        dhcp: false,
        slaac: false,
        mtu: None,
        offload: false,
    }
}

fn http() -> OpenPorts {
    OpenPorts { transport: Transport::Tcp, first: 80, last: 80 }
}

#[test]
fn a_firewall_without_sense_is_refused() {
    let refused = |level, ports: Vec<OpenPorts>, dhcp| {
        let nic = Nic { dhcp, addresses: vec![], ..nic() };
        let firewall = Some(Firewall { level, ports });
        Network { nics: vec![nic], names: None, firewall }.check().unwrap_err()
    };
    assert!(refused(Level::Closed, vec![http()], false).contains("network.firewall.ports: level closed"));
    let backwards = OpenPorts { first: 81, ..http() };
    assert!(refused(Level::Published, vec![backwards], false).contains("81 to 80"));
    assert!(refused(Level::Published, vec![http(); 513], false).contains("513 ranges"));
    assert!(refused(Level::Peers, vec![], true).contains("network.firewall.level: who is a peer"));
}

#[test]
fn addresses_are_read_and_written() {
    for text in ["10.0.2.15/24", "0.0.0.0/0", "fec0::15/64", "::/0", "1.2.3.4/32", "::1/128"] {
        assert_eq!(text.parse::<Subnet>().unwrap().to_string(), text);
    }
    for bad in [
        "",
        "10.0.2.15",
        "10.0.2.15/",
        "10.0.2.15/33",
        "::/129",
        "10.0.2/24",
        "1.2.3.4/+4",
        "1.2.3.4/24 ",
        "x/8",
    ] {
        let error = bad.parse::<Subnet>().unwrap_err();
        assert!(error.contains("is not an address"), "{bad:?}: {error}");
    }
    let mac: Mac = "02:aB:00:00:00:ff".parse().unwrap();
    assert_eq!(mac.to_string(), "02:ab:00:00:00:ff");
    for bad in [
        "",
        "02:00:00:00:00",
        "02:00:00:00:00:00:01",
        "2:0:0:0:0:1",
        "02:00:00:00:00:+1",
        "00:00:00:00:00:00",
    ] {
        assert!(bad.parse::<Mac>().is_err(), "{bad:?}");
        assert!(serde_json::from_value::<Mac>(bad.into()).is_err(), "{bad:?}");
    }
    assert!("01:00:5e:00:00:01".parse::<Mac>().unwrap_err().contains("for several"));
}

#[test]
fn what_is_written_is_read_the_same() {
    let network = Network {
        nics: vec![Nic {
            routes: vec![Route { to: "::/0".parse().unwrap(), via: Some("fe80::2".parse().unwrap()) }],
            mtu: Some(1500),
            ..nic()
        }],
        names: Some(Names {
            hosts: vec![Host { name: "db".into(), ip: "10.0.0.1".parse().unwrap() }],
            dns: vec!["10.0.2.3".parse().unwrap()],
            search: vec!["example.org".into()],
            options: vec!["ndots:1".into()],
        }),
        firewall: Some(Firewall { level: Level::Published, ports: vec![http()] }),
    };
    network.check().unwrap();
    let json = serde_json::to_string(&network).unwrap();
    assert_eq!(serde_json::from_str::<Network>(&json).unwrap(), network);
    let unknown = r#"{"nics":[{"mac":"02:00:00:00:00:01","name":"eth0","bond":1}]}"#;
    assert!(serde_json::from_str::<Network>(unknown).unwrap_err().to_string().contains("bond"));
}

/// What is changed of a good interface, and what the refusal says.
type Row = (fn(&mut Nic), &'static str);

#[test]
fn bad_interfaces_are_refused() {
    let rows: [Row; 17] = [
        (|nic| nic.name = "".into(), "name: \"\""),
        (|nic| nic.name = "sixteen-letters-".into(), "name: \"sixteen"),
        (|nic| nic.name = "a/b".into(), "name: \"a/b\""),
        (|nic| nic.name = "..".into(), "name: \"..\""),
        (|nic| nic.name = "lo".into(), "name: \"lo\""),
        (|nic| nic.name = "e%d".into(), "name: \"e%d\""),
        (|nic| nic.addresses = vec!["0.0.0.0/8".parse().unwrap()], "addresses: 0.0.0.0"),
        (|nic| nic.addresses = vec!["224.0.0.1/8".parse().unwrap()], "addresses: 224.0.0.1"),
        (|nic| nic.addresses = vec!["::1/128".parse().unwrap()], "addresses: ::1"),
        (|nic| nic.addresses = vec!["255.255.255.255/32".parse().unwrap()], "addresses: 255.255.255.255/32"),
        (|nic| nic.addresses = vec!["10.1.1.0/24".parse().unwrap()], "addresses: 10.1.1.0/24"),
        (|nic| nic.addresses = vec!["10.1.1.3/30".parse().unwrap()], "addresses: 10.1.1.3/30"),
        (|nic| nic.dhcp = true, "addresses: 10.0.2.15 is given"),
        (|nic| nic.mtu = Some(67), "mtu: 67"),
        (|nic| nic.mtu = Some(65536), "mtu: 65536"),
        (
            |nic| {
                nic.slaac = true;
                nic.mtu = Some(1279);
            },
            "mtu: 1279 is not one that IPv6",
        ),
        (
            |nic| {
                nic.routes
                    .push(Route { to: "::/0".parse().unwrap(), via: Some("10.0.2.2".parse().unwrap()) });
            },
            "routes: ::/0 is of another",
        ),
    ];
    for (change, named) in rows {
        let mut nic = nic();
        change(&mut nic);
        let error = Network { nics: vec![nic], ..Network::default() }.check().unwrap_err();
        assert!(error.starts_with("network.nics[0].") && error.contains(named), "{error}");
    }
    for good in ["10.1.1.0/31", "10.1.1.1/31", "10.1.1.0/32", "10.1.0.255/16", "10.0.0.1/0", "fd00::/64"] {
        let nic = Nic { addresses: vec![good.parse().unwrap()], ..nic() };
        Network { nics: vec![nic], ..Network::default() }.check().unwrap();
    }
    let mut other = nic();
    other.name = "eth1".into();
    let twice = Network { nics: vec![nic(), other.clone()], ..Network::default() };
    assert!(twice.check().unwrap_err().contains("nics[1].mac"));
    other.mac = Mac([2; 6]);
    other.name = "eth0".into();
    let twice = Network { nics: vec![nic(), other], ..Network::default() };
    assert!(twice.check().unwrap_err().contains("nics[1].name"));
    let many = Network { nics: vec![nic(); MOST_NICS + 1], ..Network::default() };
    assert!(many.check().unwrap_err().contains("9 interfaces"));
}

#[test]
fn a_name_cannot_be_a_line_of_its_own() {
    let check = |names: Names| Network { names: Some(names), ..Network::default() }.check();
    let host = |name: &str| Host { name: name.into(), ip: "10.0.0.1".parse().unwrap() };
    for bad in ["", "a b", "a\n1.2.3.4 b", "#x", &"x".repeat(256)] {
        let names = Names { hosts: vec![host(bad)], ..Names::default() };
        assert!(check(names).unwrap_err().contains("names.hosts"), "{bad:?}");
    }
    for bad in ["", "a b", "a\nnameserver 1.2.3.4"] {
        let names = Names { search: vec![bad.into()], ..Names::default() };
        assert!(check(names).unwrap_err().contains("names.search"), "{bad:?}");
        let names = Names { options: vec![bad.into()], ..Names::default() };
        assert!(check(names).unwrap_err().contains("names.options"), "{bad:?}");
    }
}
