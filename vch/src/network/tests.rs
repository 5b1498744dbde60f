use super::*;
use crate::RunOptions;
use mode::Choice;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn options(networks: &[&str]) -> NetworkOptions {
    let mut options = RunOptions::new("img").network;
    if !networks.is_empty() {
        options.network = networks.iter().map(|text| Choice::parse(text).unwrap()).collect();
    }
    options
}

fn shown<T: ToString>(all: &[T]) -> Vec<String> {
    all.iter().map(ToString::to_string).collect()
}

fn refused(options: &NetworkOptions) -> String {
    format!("{:#}", machine(options, ID, &[]).expect_err("it is refused"))
}

#[test]
fn by_default_qemus_own_network() {
    let network = machine(&options(&[]), ID, &[]).unwrap();
    let [nic] = &network.nics[..] else { panic!("{network:?}") };
    assert_eq!((nic.mac.to_string(), nic.name.as_str()), ("02:01:23:45:67:89".into(), "eth0"));
    assert_eq!(shown(&nic.addresses), ["10.0.2.15/24", "fec0::15/64"]);
    let routes: Vec<_> =
        nic.routes.iter().map(|route| format!("{} {}", route.to, route.via.unwrap())).collect();
    assert_eq!(routes, ["0.0.0.0/0 10.0.2.2", "::/0 fec0::2"]);
    assert!(!nic.dhcp && !nic.slaac);
    assert_eq!(shown(&network.names.unwrap().dns), ["10.0.2.3"]);
    let dhcp = machine(&options(&["user,dhcp,slaac"]), ID, &[]).unwrap();
    assert!(dhcp.nics[0].dhcp && dhcp.nics[0].slaac && dhcp.nics[0].addresses.is_empty());
    assert_eq!(dhcp.names, Some(Names::default()));
}

#[test]
fn none_is_none() {
    let network = machine(&options(&["none"]), ID, &[]).unwrap();
    assert_eq!((network.nics, network.names), (vec![], Some(Names::default())));
    assert!(
        refused(&NetworkOptions { network: vec![Choice::None, Choice::None], ..options(&[]) })
            .contains("no interface")
    );
    let mut with_port = options(&["none"]);
    with_port.publish_all = true;
    let store = tempfile::tempdir().unwrap();
    let error = Host::open(&with_port, ID, &[], store.path()).unwrap_err().to_string();
    assert!(error.contains("need --network user"), "{error}");
}

#[test]
fn outside_a_server_is_asked_unless_an_address_is_given() {
    let network =
        machine(&options(&["bridge=br0", "tap=t0,ip=10.1.0.5/16,gw=10.1.0.1,mtu=9000"]), ID, &[]).unwrap();
    let [asks, has] = &network.nics[..] else { panic!("{network:?}") };
    assert!(asks.dhcp && asks.slaac && !has.dhcp && has.slaac);
    assert_eq!(
        (has.name.as_str(), has.mtu, shown(&has.addresses)),
        ("eth1", Some(9000), vec!["10.1.0.5/16".into()])
    );
    assert_ne!(asks.mac, has.mac);
    for (choice, dhcp, slaac) in [
        ("tap=t0,dhcp", true, true),
        ("tap=t0,slaac", false, true),
        ("tap=t0,dhcp,slaac", true, true),
        ("tap=t0,ip6=fd00::5/64", false, false),
        ("socket=w,slaac", false, true),
    ] {
        let network = machine(&options(&[choice]), ID, &[]).unwrap();
        assert_eq!((network.nics[0].dhcp, network.nics[0].slaac), (dhcp, slaac), "{choice}");
    }
    let wire = machine(&options(&["socket=w,ip=10.1.0.5/16"]), ID, &[]).unwrap();
    assert!(!wire.nics[0].dhcp && !wire.nics[0].slaac && wire.nics[0].routes.is_empty());
}

#[test]
fn dockers_options_are_the_first_interfaces() {
    let mut all = options(&["socket=w,dhcp", "user"]);
    all.mac_address = Some("02:00:00:00:00:77".parse().unwrap());
    all.ip6 = Some("fd00::7/64".parse().unwrap());
    let network = machine(&all, ID, &[]).unwrap();
    assert_eq!(network.nics[0].mac.to_string(), "02:00:00:00:00:77");
    assert_eq!(shown(&network.nics[0].addresses), ["fd00::7/64"]);
    all.ip = Some("10.0.0.7/24".parse().unwrap());
    assert!(refused(&all).contains("dhcp is for an address"));
    all.network.reverse();
    assert!(refused(&all).contains("gives its addresses itself"));
    all.network = options(&["socket=w,ip=10.0.0.8/24"]).network;
    assert!(refused(&all).contains("--ip and ip= of --network"));
    all.network = vec![Choice::None];
    assert!(refused(&all).contains("there is none"));
    assert!(refused(&options(&["user", "user"])).contains("one interface leads to all"));
    assert!(refused(&options(&["tap=t"; 9])).contains("at most 8"));
    assert!(
        refused(&options(&["tap=a,mac=02:00:00:00:00:01", "tap=b,mac=02:00:00:00:00:01"]))
            .contains("nics[1].mac")
    );
    assert!(refused(&options(&["tap=a,mtu=1000"])).contains("mtu: 1000"));
}

#[test]
fn names() {
    let mut all = options(&[]);
    all.add_host =
        vec![("db".into(), Address::Ip("10.9.9.9".parse().unwrap())), ("host".into(), Address::Host)];
    all.dns = vec!["1.1.1.1".parse().unwrap()];
    all.dns_search = vec!["lab".into()];
    all.dns_option = vec!["ndots:2".into()];
    let names = machine(&all, ID, &[]).unwrap().names.unwrap();
    let lines: Vec<_> = names.hosts.iter().map(|host| format!("{} {}", host.name, host.ip)).collect();
    assert_eq!(lines, ["db 10.9.9.9", "host 10.0.2.2"]);
    assert_eq!(
        (shown(&names.dns), names.search, names.options),
        (vec!["1.1.1.1".into()], vec!["lab".into()], vec!["ndots:2".into()])
    );
    all.network = vec![Choice::None];
    assert!(refused(&all).contains("host-gateway"));
}

#[test]
fn a_firewall_knows_the_ports() {
    let mut all = options(&["socket=w,ip=10.1.0.5/16"]);
    assert_eq!(machine(&all, ID, &["http".into()]).unwrap().firewall, None, "open");
    all.firewall = options::Firewall::Published;
    all.expose = vec![publish::exposed("8000-8001/udp").unwrap()];
    let firewall = machine(&all, ID, &["80/tcp".into()]).unwrap().firewall.unwrap();
    let shown: Vec<_> = firewall
        .ports
        .iter()
        .map(|open| format!("{} {} {}", open.transport, open.first, open.last))
        .collect();
    assert_eq!((firewall.level, shown), (Level::Published, vec!["udp 8000 8001".into(), "tcp 80 80".into()]));
    all.network = vec![Choice::None];
    assert_eq!(machine(&all, ID, &[]).unwrap().firewall, None, "there is nothing to pass");
    all.network = vec![Choice::parse("tap=t").unwrap()];
    all.firewall = options::Firewall::Peers;
    assert!(refused(&all).contains("who is a peer"));
    all.network = vec![Choice::parse("user").unwrap()];
    all.firewall = options::Firewall::Closed;
    all.publish_all = true;
    assert!(refused(&all).contains("--firewall closed keeps out"));
}

#[test]
fn what_qemu_is_given() {
    let store = tempfile::tempdir().unwrap();
    let mut all = options(&["user", "socket=w,ip=10.1.0.5/16"]);
    all.publish = vec![Publish::parse("127.0.0.1::80").unwrap()];
    all.publish_all = true;
    let host = Host::open(&all, ID, &["80/tcp".into(), "53/udp".into()], store.path()).unwrap();
    let [user, wire] = host.devices() else { panic!("{host:?}") };
    let [http, dns] = host.ports() else { panic!("{host:?}") };
    let wanted = format!(
        "user,hostfwd=tcp:127.0.0.1:{}-10.0.2.15:80,hostfwd=udp:0.0.0.0:{}-10.0.2.15:53",
        http.host, dns.host
    );
    assert_eq!(user.backend, wanted);
    assert!(wire.backend.starts_with("dgram,"), "{}", wire.backend);
    assert_eq!(host.inherited().count(), 2);
    let macs: Vec<_> = machine(&all, ID, &[]).unwrap().nics.iter().map(|nic| nic.mac).collect();
    assert_eq!(macs, [user.mac, wire.mac]);
    let error = Host::open(&all, ID, &["http".into()], store.path()).unwrap_err();
    assert!(format!("{error:#}").contains("ExposedPorts has \"http\""), "{error:#}");
}
