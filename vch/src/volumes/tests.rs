//! Volumes come, are claimed, grow and go.

use super::attach::attach;
use super::*;
use crate::containers::Record as ContainerRecord;
use oci_spec::image::{Config, ConfigBuilder};

fn fixture() -> (tempfile::TempDir, Volumes) {
    let dir = tempfile::tempdir().unwrap();
    let volumes = Volumes::of(dir.path());
    (dir, volumes)
}

fn named(name: &str, size: u64) -> New {
    New {
        name: Some(name.into()),
        size: Some(size),
        labels: [("a".into(), "b".into())].into(),
        ..New::default()
    }
}

fn create(volumes: &Volumes, new: New) -> Result<Volume> {
    volumes.create(new, &volumes.lock().unwrap())
}

fn container(store: &Path, volumes: &[&str]) -> crate::containers::Container {
    let volumes = volumes.iter().map(ToString::to_string).collect();
    let record = ContainerRecord {
        remove: true,
        volumes,
        ..ContainerRecord::new(random::id().unwrap(), "web".into())
    };
    Containers::of(store).create(record).unwrap()
}

#[test]
fn made_found_grown_and_removed() {
    let (_dir, volumes) = fixture();
    assert!(volumes.list().unwrap().is_empty(), "nothing is made by looking");
    let db = create(&volumes, named("db", LEAST)).unwrap();
    let (size, used) = db.sizes().unwrap();
    assert!(size == LEAST && used < 1 << 20, "{size} {used}");
    let other = create(&volumes, New::default()).unwrap();
    assert!(other.record.anonymous && other.sizes().unwrap().0 == DEFAULT);
    assert!(other.sizes().unwrap().1 < 8 << 20, "sparse: {:?}", other.sizes());
    assert_eq!(volumes.list().unwrap().len(), 2);
    assert_eq!(volumes.find("db").unwrap().record, db.record);

    // Again: the same, and larger.
    let again = create(&volumes, named("db", 2 * LEAST)).unwrap();
    assert_eq!((again.record.uuid, again.sizes().unwrap().0), (db.record.uuid, 2 * LEAST));
    create(&volumes, New { size: None, ..named("db", 0) }).unwrap();
    let other_labels = New { labels: [("a".into(), "c".into())].into(), ..named("db", 2 * LEAST) };
    assert!(create(&volumes, other_labels).unwrap_err().to_string().contains("other labels"));
    let error = create(&volumes, named("db", LEAST)).unwrap_err().to_string();
    assert!(error.contains("can grow, but not shrink"), "{error}");

    volumes.remove(&again, &volumes.lock().unwrap()).unwrap();
    assert_eq!(volumes.find("db").unwrap_err().to_string(), "no such volume: db");
    assert!(volumes.get("../x").is_err());
}

#[test]
fn one_writes_or_many_read() {
    let (_dir, volumes) = fixture();
    let db = create(&volumes, named("db", LEAST)).unwrap();
    let writer = db.claim(true).unwrap().unwrap();
    assert!(db.claim(true).unwrap().is_none() && db.claim(false).unwrap().is_none());
    let inherited = writer.try_clone().unwrap();
    drop(writer);
    assert!(db.claim(false).unwrap().is_none());
    let error = volumes.remove(&db, &volumes.lock().unwrap()).unwrap_err().to_string();
    assert!(error.contains("in use"), "{error}");
    drop(inherited);
    let readers = [db.claim(false).unwrap().unwrap(), db.claim(false).unwrap().unwrap()];
    assert!(db.claim(true).unwrap().is_none());
    drop(readers);
    assert!(db.claim(true).unwrap().is_some());
}

#[test]
fn what_containers_have_stays() {
    let (dir, volumes) = fixture();
    let db = create(&volumes, named("db", LEAST)).unwrap();
    let anonymous = create(&volumes, New { size: Some(LEAST), ..New::default() }).unwrap();
    let web = container(dir.path(), &["db", &anonymous.record.name]);
    for volume in [&db, &anonymous] {
        let error = volumes.remove(volume, &volumes.lock().unwrap()).unwrap_err().to_string();
        assert!(error.contains("in use by container web"), "{error}");
    }
    volumes.remove_anonymous(&web.record.volumes).unwrap();
    assert_eq!(volumes.list().unwrap().len(), 2);
    web.remove_with_volumes().unwrap();
    let left: Vec<_> = volumes.list().unwrap().into_iter().map(|volume| volume.record.name).collect();
    assert_eq!(left, ["db"]);
}

#[test]
fn what_a_machine_gets() {
    let (dir, volumes) = fixture();
    let config = ConfigBuilder::default()
        .volumes(vec!["/var/lib/db/".to_owned(), "/srv".to_owned(), "/cache".to_owned()])
        .build()
        .unwrap();
    let wanted = [
        parse::volume("outer-data:/a/b/c").unwrap(),
        parse::volume("db:/var/lib/db").unwrap(),
        parse::volume("shm:/dev/shm").unwrap(),
        parse::mount("type=tmpfs,target=/srv,tmpfs-size=1m").unwrap(),
    ];
    let mut machine: protocol::MachineSpec = serde_json::from_value(serde_json::json!({
        "version": 1,
        "config": {"ociVersion": "1.2.0", "process": {"cwd": "/", "args": ["x"]}, "root": {"path": "rootfs"},
            "mounts": [{"destination": "/dev/shm", "type": "tmpfs"}, {"destination": "/proc", "type": "proc"}]},
        "disks": {"layers": [], "scratch": Uuid::nil()},
    }))
    .unwrap();
    let mut attached = attach(dir.path(), &wanted, &[], &config).unwrap();
    attached.tell(&mut machine).unwrap();
    let places: Vec<_> = machine.volumes.iter().map(|volume| volume.destination.as_str()).collect();
    assert_eq!(places, ["/cache", "/dev/shm", "/a/b/c", "/var/lib/db"]);
    let mounts: Vec<_> = machine.config.mounts.iter().map(|mount| mount.destination.as_str()).collect();
    assert_eq!(mounts, ["/proc", "/srv"]);
    assert_eq!(volumes.list().unwrap().len(), 4);

    // One at a time, and each once.
    let error = attach(dir.path(), &wanted[1..2], &[], &Config::default()).unwrap_err().to_string();
    assert!(error.contains("volume db is in use"), "{error}");
    // What was made for nothing is gone again, but for what has a name.
    drop(attached);
    assert_eq!(volumes.list().unwrap().len(), 3);
    let twice = ["db:/x", "db:/y"].map(|text| parse::volume(text).unwrap());
    let error = attach(dir.path(), &twice, &[], &Config::default()).unwrap_err().to_string();
    assert!(error.contains("mounted twice"), "{error}");
    let tmpfs = ["/y:size=1m".to_owned()];
    let error = attach(dir.path(), &twice[1..], &tmpfs, &Config::default()).unwrap_err().to_string();
    assert!(error.contains("two things are to be mounted on /y"), "{error}");
    let same = ["db:/x", "other:/x/"].map(|text| parse::volume(text).unwrap());
    let error = attach(dir.path(), &same, &[], &Config::default()).unwrap_err().to_string();
    assert!(error.contains("two things are to be mounted on /x"), "{error}");
    // Never filled: the first one has it alone, even to read.
    let read = [parse::volume("db:/x:ro").unwrap()];
    let first = attach(dir.path(), &read, &[], &Config::default()).unwrap();
    assert!(first.volumes[0].spec.readonly && !first.volumes[0].spec.shared);
    assert!(attach(dir.path(), &read, &[], &Config::default()).is_err());
}

#[test]
fn of_an_nfs_server() {
    let (dir, volumes) = fixture();
    let export =
        |device: &str| nfs::Export { kind: "nfs".into(), device: device.into(), o: "vers=4.1,ro".into() };
    let new = |device: &str| New { name: Some("share".into()), nfs: Some(export(device)), ..New::default() };
    let share = create(&volumes, new("10.0.2.2:/srv")).unwrap();
    assert!(!share.disk().exists() && share.sizes().unwrap() == (0, 0));
    assert_eq!(create(&volumes, New { nfs: None, ..new("") }).unwrap().record, share.record);
    let error = create(&volumes, new("10.0.2.3:/srv")).unwrap_err().to_string();
    assert!(error.contains("another driver or options"), "{error}");
    create(&volumes, named("disk", LEAST)).unwrap();
    let error =
        create(&volumes, New { name: Some("disk".into()), ..new("10.0.2.2:/srv") }).unwrap_err().to_string();
    assert!(error.contains("another driver or options"), "{error}");
    let error = share.grow(1 << 40).unwrap_err().to_string();
    assert!(error.contains("not ours to say"), "{error}");

    let mut machine = protocol::MachineSpec::new(
        protocol::oci::Spec::default(),
        protocol::Disks { layers: vec![], scratch: Uuid::nil(), ephemeral: false },
    );
    let wanted = ["share:/a", "disk:/b"].map(|text| parse::volume(text).unwrap());
    // Several containers may have it.
    let [mut one, _two] =
        [0, 1].map(|at| attach(dir.path(), &wanted[..2 - at], &[], &Config::default()).unwrap());
    one.tell(&mut machine).unwrap();
    assert_eq!(one.names(), ["disk", "share"]);
    let nfs = &machine.nfs[0];
    assert_eq!((&*nfs.name, &*nfs.path, &*nfs.destination, nfs.readonly), ("share", "/srv", "/a", true));
    assert_eq!(nfs.versions, ["4.1"]);
    machine.idmapped = true;
    assert!(one.tell(&mut machine).unwrap_err().to_string().contains("--userns"));
    assert!(volumes.remove(&share, &volumes.lock().unwrap()).unwrap_err().to_string().contains("in use"));
    drop((one, _two));
    volumes.remove(&share, &volumes.lock().unwrap()).unwrap();
}

#[test]
fn records_are_not_trusted() {
    let (_dir, volumes) = fixture();
    let db = create(&volumes, named("db", LEAST)).unwrap();
    for (record, why) in [
        ("{", "volume.json"),
        ("{\"name\":\"db\"}", "missing field"),
        (
            "{\"name\":\"other\",\"uuid\":\"00000000-0000-0000-0000-000000000000\",\"created\":1}",
            "another volume",
        ),
        (
            "{\"name\":\"db\",\"uuid\":\"00000000-0000-0000-0000-000000000000\",\"created\":1,\"x\":1}",
            "unknown field",
        ),
        ("{\"name\":\"db\",\"uuid\":\"none\",\"created\":1}", "UUID"),
    ] {
        fs::write(db.dir.join(RECORD), record).unwrap();
        let error = format!("{:#}", volumes.find("db").unwrap_err());
        assert!(error.contains(why), "{record}: {error}");
    }
    File::create(db.dir.join(RECORD)).unwrap().set_len(1 << 30).unwrap();
    assert!(volumes.find("db").is_err());
}
