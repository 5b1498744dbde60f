//! Containers come, are found, live and go.

use super::*;

fn record(name: &str) -> Record {
    let record = Record::new(crate::random::id().unwrap(), name.into());
    Record { image: "alpine".into(), command: vec!["true".into()], created: 1, ..record }
}

fn fixture() -> (tempfile::TempDir, Containers) {
    let dir = tempfile::tempdir().unwrap();
    let containers = Containers::of(dir.path());
    (dir, containers)
}

#[test]
fn found_by_name_id_and_first_digits() {
    let (_dir, containers) = fixture();
    assert!(containers.list().unwrap().is_empty(), "nothing is made by looking");
    let web = containers.create(record("web")).unwrap();
    let db = containers.create(Record { created: 2, ..record("db") }).unwrap();
    let names: Vec<_> = containers.list().unwrap().into_iter().map(|c| c.record.name).collect();
    assert_eq!(names, ["db", "web"]);
    for text in ["web", &web.record.id, web.short_id()] {
        assert_eq!(containers.find(text).unwrap().record, web.record, "{text}");
    }
    assert_eq!(containers.find("other").unwrap_err().to_string(), "no such container: other");
    assert!(containers.find("").is_err());
    // A name comes before an ID, whoever's it is.
    let odd = containers.create(record(db.short_id())).unwrap();
    assert_eq!(containers.find(db.short_id()).unwrap().record, odd.record);
}

#[test]
fn a_name_has_one_container() {
    let (_dir, containers) = fixture();
    let first = containers.create(record("web")).unwrap();
    let error = containers.create(record("web")).unwrap_err().to_string();
    assert!(error.contains("\"web\" is taken") && error.contains(first.short_id()), "{error}");
    first.remove().unwrap();
    containers.create(record("web")).unwrap();
    let names = ["a", "b"].map(|name| {
        let containers = containers.clone();
        std::thread::spawn(move || (0..20).filter(|_| containers.create(record(name)).is_ok()).count())
    });
    assert_eq!(names.map(|thread| thread.join().unwrap()), [1, 1]);
}

#[test]
fn a_vm_lives_as_long_as_someone_has_its_lock() {
    let (_dir, containers) = fixture();
    let container = containers.create(record("web")).unwrap();
    assert!(!container.has_vm().unwrap());
    let lock = container.lock_vm().unwrap();
    let inherited = lock.try_clone().unwrap();
    drop(lock);
    assert!(container.has_vm().unwrap());
    assert!(container.lock_vm().unwrap_err().to_string().contains("runs already"));
    assert!(container.remove().is_err());
    drop(inherited);
    assert!(!container.has_vm().unwrap());
    container.remove().unwrap();
    assert!(container.state().unwrap_err().to_string().contains("is gone"));
    assert!(containers.list().unwrap().is_empty());
}

#[test]
fn states_are_kept() {
    let (_dir, containers) = fixture();
    let container = containers.create(record("web")).unwrap();
    assert_eq!(container.state().unwrap(), State::Created);
    let exit = Exit { code: 137, oom: true, error: Some("memory".into()) };
    for state in [State::Running { started: 5 }, State::Exited { started: Some(5), finished: 9, exit }] {
        container.set_state(&state).unwrap();
        assert_eq!(containers.find("web").unwrap().state().unwrap(), state);
    }
    fs::write(container.dir.join(STATE), "{\"status\":\"flying\"}").unwrap();
    let error = format!("{:#}", container.state().unwrap_err());
    assert!(error.contains("state.json") && error.contains("flying"), "{error}");
}

#[test]
fn what_is_not_whole_is_no_container() {
    let (dir, containers) = fixture();
    let container = containers.create(record("web")).unwrap();
    let base = dir.path().join("containers");
    fs::create_dir(base.join(format!("{PENDING}x"))).unwrap();
    fs::create_dir(base.join("f".repeat(64))).unwrap();
    assert_eq!(containers.list().unwrap().len(), 1);
    fs::write(container.dir.join(RECORD), "{").unwrap();
    assert!(format!("{:#}", containers.list().unwrap_err()).contains("container.json"));
}
