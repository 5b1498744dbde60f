//! What is understood, and what is refused.

use super::*;

fn named(name: Option<&str>, target: &str, readonly: bool, nocopy: bool) -> Mount {
    let name = name.map(str::to_owned);
    let source =
        Source::Volume { name, nocopy, size: None, nfs: None, subpath: None, labels: BTreeMap::new() };
    Mount { source, target: target.into(), readonly }
}

fn bind(path: &str, target: &str, readonly: bool) -> Mount {
    Mount { source: Source::Bind(path.into()), target: target.into(), readonly }
}

#[test]
fn dash_v() {
    for (text, expected) in [
        ("/data", named(None, "/data", false, false)),
        ("db:/var/lib/db", named(Some("db"), "/var/lib/db", false, false)),
        ("db:/var/./lib//x/../db/:ro", named(Some("db"), "/var/lib/db", true, false)),
        ("db:/d:ro,nocopy", named(Some("db"), "/d", true, true)),
        ("db:/d:rw", named(Some("db"), "/d", false, false)),
        ("/srv:/d:ro", bind("/srv", "/d", true)),
        ("/:/host", bind("/", "/host", false)),
    ] {
        assert_eq!(volume(text).unwrap(), expected, "{text}");
    }
    let here = std::env::current_dir().unwrap();
    assert_eq!(volume("./x:/d").unwrap().source, Source::Bind(here.join("x")));
}

#[test]
fn dash_v_refused() {
    for (text, why) in [
        ("", "not an absolute path"),
        (":", "not an absolute path"),
        ("/", "the container's root"),
        ("db:/..", "the container's root"),
        ("db:/proc/sys", "the kernel's in every container"),
        ("db:/x/../dev/", "the kernel's in every container"),
        ("db:data", "not an absolute path"),
        ("db:", "not an absolute path"),
        (":/d", "no name for a volume"),
        ("/d:ro", "options need a source"),
        ("/d:rw,nocopy", "options need a source"),
        ("db:/d:", "unknown option \"\""),
        ("db:/d:ro,", "unknown option \"\""),
        ("db:/d:rw,ro", "of ro and rw one"),
        ("db:/d:ro,nocopy,ro", "of ro and rw one"),
        ("db:/d:rslave", "unknown option \"rslave\""),
        ("db:/d:z", "SELinux"),
        ("db:/d:ro:x", "too many colons"),
        ("d b:/d", "no name for a volume"),
        ("d/b:/d", "no name for a volume"),
        ("-db:/d", "no name for a volume"),
        ("x:/d", "no name for a volume"),
        ("/srv:/d:nocopy", "is for volumes"),
        ("db:/d\0", "holds a NUL"),
        ("/s\0:/d", "holds a NUL"),
        (&format!("db:/{}", "x".repeat(5000)), "too long"),
        (&format!("{}:/d", "x".repeat(300)), "no name for a volume"),
    ] {
        let error = format!("{:#}", volume(text).expect_err(text));
        assert!(error.contains(why), "{text:?}: {error}");
    }
}

#[test]
fn dash_dash_mount() {
    for (text, expected) in [
        ("target=/d", named(None, "/d", false, false)),
        ("type=volume,source=db,target=/d,readonly", named(Some("db"), "/d", true, false)),
        ("src=db,dst=/d,ro=false,volume-nocopy=true", named(Some("db"), "/d", false, true)),
        ("Type=VOLUME,source=db,destination=/d,volume-driver=local", named(Some("db"), "/d", false, false)),
        ("type=bind,source=/srv,target=/d,readonly=1", bind("/srv", "/d", true)),
        ("type=bind,\"source=/a,\"\"b:c\",target=/d", bind("/a,\"b:c", "/d", false)),
    ] {
        assert_eq!(mount(text).unwrap(), expected, "{text}");
    }
    let full = mount("source=db,target=/d,volume-opt=size=1g,volume-label=a=b,volume-label=c").unwrap();
    let labels = [("a", "b"), ("c", "")].map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let name = Some("db".to_owned());
    assert_eq!(
        full.source,
        Source::Volume { name, nocopy: false, size: Some(1 << 30), nfs: None, subpath: None, labels }
    );
    // Options with commas between them stand in quotation marks.
    let nfs = mount("dst=/d,volume-driver=nfs,volume-opt=device=h:/p,\"volume-opt=o=soft,timeo=9\",readonly")
        .unwrap();
    let export = Export { kind: "nfs".into(), device: "h:/p".into(), o: "soft,timeo=9".into() };
    let labels = BTreeMap::new();
    let source =
        Source::Volume { name: None, nocopy: false, size: None, nfs: Some(export), subpath: None, labels };
    assert_eq!(nfs, Mount { source, target: "/d".into(), readonly: true });
    let Source::Volume { subpath, .. } = mount("src=db,target=/d,volume-subpath=a//./b/").unwrap().source
    else {
        panic!()
    };
    assert_eq!(subpath.as_deref(), Some("a/b"));
    let tmpfs = mount("type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1770").unwrap();
    assert_eq!(tmpfs.source, Source::Tmpfs { size: Some(1 << 20), mode: Some(0o1770) });
}

#[test]
fn dash_dash_mount_refused() {
    for (text, why) in [
        ("", "nothing between two commas"),
        (",", "nothing between two commas"),
        ("target=/d,", "nothing between two commas"),
        ("\"target=/d", "not closed"),
        ("\"target=/d\"x", "follows a closed"),
        ("source=db", "needs target=PATH"),
        ("target", "needs a value"),
        ("target=", "needs a value"),
        ("target=d", "not an absolute path"),
        ("type=npipe,target=/d", "type \"npipe\""),
        ("type=image,target=/d", "type \"image\""),
        ("type=bind,target=/d", "needs source=DIR"),
        ("type=bind,source=srv,target=/d", "not an absolute path on the host"),
        ("type=tmpfs,source=x,target=/d", "has no source"),
        ("type=bind,source=/s,target=/d,volume-nocopy", "does not go with type=bind"),
        ("target=/d,tmpfs-size=1m", "does not go with type=volume"),
        ("type=bind,source=/s,target=/d,bind-propagation=shared", "\"bind-propagation\" is not supported"),
        ("target=/d,consistency=cached", "\"consistency\" is not supported"),
        ("target=/d,readonly=maybe", "true or false"),
        ("target=/d,volume-driver=rexray", "volume-driver \"rexray\""),
        ("target=/d,volume-opt=type=btrfs", "volume-opt \"type=btrfs\""),
        ("src=db,target=/d,volume-subpath=/a", "not a relative path"),
        ("src=db,target=/d,volume-subpath=a/../../b", "not a folder on the volume"),
        ("src=db,target=/d,volume-subpath=./", "not a folder on the volume"),
        ("src=db,target=/d,volume-subpath=", "needs a value"),
        ("type=tmpfs,target=/d,volume-subpath=a", "does not go with type=tmpfs"),
        ("target=/d,volume-driver=nfs", "needs volume-opt=device"),
        ("target=/d,volume-driver=nfs,volume-opt=device=h:/p,volume-opt=o=intr", "no effect"),
        ("target=/d,volume-opt=device", "is not NAME=VALUE"),
        ("type=bind,source=/s,target=/d,volume-driver=nfs", "does not go with type=bind"),
        ("target=/d,volume-opt=size=1m", "at least 16 MiB"),
        ("target=/d,volume-opt=size=lots", "not a size"),
        ("target=/d,volume-label==x", "has no name"),
        ("type=tmpfs,target=/d,tmpfs-mode=9", "no mode"),
        ("type=tmpfs,target=/d,tmpfs-mode=17777", "no mode"),
    ] {
        let error = format!("{:#}", mount(text).expect_err(text));
        assert!(error.contains(why), "{text:?}: {error}");
    }
}

#[test]
fn sizes_are_whole_blocks() {
    assert_eq!(size_of_volume("16m").unwrap(), 16 << 20);
    assert_eq!(size_of_volume(&((16 << 20) + 4097).to_string()).unwrap(), (16 << 20) + 4096);
    for text in ["", "16777215", "-1", "9999999999g", "9223372036854775808"] {
        assert!(size_of_volume(text).is_err(), "{text}");
    }
}
