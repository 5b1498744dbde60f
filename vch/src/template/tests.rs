use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use super::folder::{FULL, MEMORY, STATE, digest, written};
use super::*;
use crate::options::template::TemplateOptions;
use crate::options::{Boot as How, Machine as Type};
use crate::transport::Channel;

fn options() -> RunOptions {
    let template = TemplateOptions { from_template: Some(Choice::Auto) };
    RunOptions { template, ..RunOptions::new("img") }
}

/// A folder with what stands for a kernel, an initramfs and QEMU.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["kernel", "initrd"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        Self(dir)
    }

    fn boot(&self) -> Boot {
        Boot::Direct {
            kernel: self.0.path().join("kernel"),
            initrd: self.0.path().join("initrd"),
            parameters: "quiet".into(),
            finds_mmio: false,
        }
    }

    fn key(&self, change: impl FnOnce(&mut RunOptions), disks: usize, nics: usize) -> Option<Key> {
        let mut options = options();
        change(&mut options);
        let boot = self.boot();
        let machine = Machine::new(&options, Accel::Tcg, &boot, disks, nics).unwrap().rounded();
        // Where QEMU is not installed, there is nothing to be tested.
        machine.files().ok()?;
        Some(machine.key(&mut Digests::of(self.0.path())).unwrap())
    }
}

#[test]
fn whatever_a_machine_is_made_of_is_in_its_key() {
    let files = Files::new();
    let Some(key) = files.key(|_| {}, 2, 1) else { return };
    let same = |other: Option<Key>| other.unwrap() == key;
    assert!(is_id(&key.id()) && key.difference(&key).is_none());
    assert!(same(files.key(|options| options.env = vec!["A=1".into()], 1, 1)), "what is run in it is not");
    for (what, other) in [
        ("memory", files.key(|options| options.memory *= 2, 2, 1)),
        ("CPUs", files.key(|options| options.cpus = 2.0, 2, 1)),
        ("--machine", files.key(|options| options.machine = Some(Type::Pc), 2, 1)),
        ("--channel", files.key(|options| options.channel.channel = Some(Channel::Serial), 2, 1)),
        ("disks", files.key(|_| {}, 3, 1)),
        ("network", files.key(|_| {}, 2, 0)),
        ("arguments", files.key(|options| options.qemu_arg = vec!["-S".into()], 2, 1)),
    ] {
        let other = other.unwrap();
        assert_ne!(other.id(), key.id(), "{what}");
        let difference = key.difference(&other).unwrap();
        assert!(difference.contains(what), "{difference}");
    }
    fs::write(files.0.path().join("initrd"), "another").unwrap();
    let difference = key.difference(&files.key(|_| {}, 2, 1).unwrap()).unwrap();
    assert!(difference.starts_with("initrd is "), "{difference}");
}

#[test]
fn disks_are_rounded_up() {
    let files = Files::new();
    let mut options = options();
    let disks = |options: &RunOptions, finds_mmio, wanted| {
        let mut boot = files.boot();
        if let Boot::Direct { finds_mmio: finds, .. } = &mut boot {
            *finds = finds_mmio;
        }
        let machine = Machine::new(options, Accel::Tcg, &boot, wanted, 1)?.rounded();
        let null = File::open("/dev/null")?;
        let descriptors = machine.descriptors(crate::transport::Device::Port(null.into()), 0, 0, 0);
        anyhow::Ok(descriptors.frozen.map_or(0, |frozen| frozen.disks))
    };
    let on_pci = [1, 2, 3, 4, 5, 100, 130, 223].map(|wanted| disks(&options, false, wanted).unwrap());
    assert_eq!(on_pci, [2, 2, 4, 4, 8, 128, 130, 223]);
    let error = disks(&options, false, 224).unwrap_err().to_string();
    assert!(error.contains("222 disks"), "{error}");
    options.machine = Some(Type::Microvm);
    let on_mmio = [1, 2, 3, 4, 5].map(|wanted| disks(&options, true, wanted).unwrap());
    assert_eq!(on_mmio, [2, 2, 4, 4, 5]);
    assert!(disks(&options, true, 6).is_err());
    let mut boot = files.boot();
    if let Boot::Direct { finds_mmio, .. } = &mut boot {
        *finds_mmio = true;
    }
    let room = |layers, volumes| machine::check_room(&options, Accel::Tcg, &boot, layers, volumes, 1);
    assert!(room(3, 1).is_ok());
    let error = room(4, 1).unwrap_err().to_string();
    assert!(error.contains("4 layers") && error.contains("1 volumes"), "{error}");
}

#[test]
fn what_cannot_be_copied_is_refused() {
    let refused = |change: &dyn Fn(&mut RunOptions), why: &str| {
        let mut options = options();
        change(&mut options);
        let error = machine::check(&options).unwrap_err().to_string();
        assert!(error.contains(why) && error.contains("--from-template"), "{error}");
    };
    refused(&|options| options.boot = Some(How::Iso), "--boot iso");
    refused(&|options| options.debug = true, "--debug");
    refused(&|options| options.machine = Some(Type::Vmware), "--machine vmware");
    refused(&|options| options.channel.channel = Some(Channel::Vsock), "--channel vsock");
    let share = |options: &mut RunOptions| {
        options.volumes.volume = vec![crate::volumes::parse::volume("/tmp:/host").unwrap()];
    };
    refused(&share, "the folder of the host's on /host");
    let mut options = options();
    options.volumes.volume = vec![crate::volumes::parse::volume("data:/data").unwrap()];
    machine::check(&options).unwrap();
}

#[test]
fn names() {
    assert!(check_name("base").is_ok());
    for bad in ["auto", "a", "../x", "0123456789abcdef01234567"] {
        assert!(check_name(bad).is_err(), "{bad}");
    }
}

/// A template in `store` as one is written down, of no machine.
fn template(store: &Path, files: &Files, name: Option<&str>) -> Option<(Templates, Template)> {
    let templates = Templates::of(store);
    let key = files.key(|_| {}, 2, 1)?;
    let dir = templates.dir.join(key.id());
    drop(templates.try_lock().unwrap());
    private_dir(&dir, false).unwrap();
    fs::write(dir.join(MEMORY), "memory").unwrap();
    fs::write(dir.join(STATE), "state").unwrap();
    let open = |name| File::open(dir.join(name)).unwrap();
    let record = Record {
        id: key.id(),
        name: name.map(str::to_owned),
        created: 1,
        qemu: "1.2.3".into(),
        key,
        files: BTreeMap::from([("kernel".into(), files.0.path().join("kernel"))]),
        memory: written(&open(MEMORY)).unwrap(),
        state: digest(&open(STATE)).unwrap(),
    };
    keep(&dir, &record).unwrap();
    Some((templates, Template { dir, record }))
}

#[test]
fn a_template_is_found_and_used_only_while_it_is_whole() {
    let (store, files) = (tempfile::tempdir().unwrap(), Files::new());
    let Some((templates, template)) = template(store.path(), &files, Some("base")) else { return };
    let (id, key) = (&template.record.id, &template.record.key);
    for text in ["base", id, &id[..5]] {
        assert_eq!(templates.find(text).unwrap().record, template.record, "{text}");
    }
    assert!(templates.find("").is_err() && templates.find("other").is_err());
    assert_eq!(fs::metadata(&templates.dir).unwrap().permissions().mode() & 0o777, 0o700);
    let digests = || templates.digests();
    assert!(templates.whole(key).is_some() && template.trouble(&mut digests()).is_none());

    let (memory, state) = (template.dir.join(MEMORY), template.dir.join(STATE));
    fs::write(&state, "stale").unwrap();
    assert!(templates.whole(key).is_none());
    assert!(template.trouble(&mut digests()).unwrap().contains("state was changed"));
    fs::write(&state, "state").unwrap();
    assert!(templates.whole(key).is_some());
    let time = fs::metadata(&memory).unwrap().modified().unwrap();
    File::options().write(true).open(&memory).unwrap().set_len(3).unwrap();
    File::options().write(true).open(&memory).unwrap().set_modified(time).unwrap();
    assert!(templates.whole(key).is_none(), "shorter");
    fs::write(&memory, "memorx").unwrap();
    assert!(template.trouble(&mut digests()).unwrap().contains("memory was changed"));
    fs::remove_file(&memory).unwrap();
    assert!(templates.whole(key).is_none());

    fs::write(files.0.path().join("kernel"), "another").unwrap();
    assert!(template.trouble(&mut digests()).unwrap().contains("another kernel"));
    let lock = templates.try_lock().unwrap().unwrap();
    assert!(templates.try_lock().unwrap().is_none());
    templates.remove(&template, &lock).unwrap();
    assert!(templates.list().unwrap().is_empty());
}

#[test]
fn a_template_has_one_name_that_no_other_has() {
    let (store, files) = (tempfile::tempdir().unwrap(), Files::new());
    let Some((templates, mut template)) = template(store.path(), &files, None) else { return };
    let lock = templates.try_lock().unwrap().unwrap();
    templates.call(&mut template, "base", &lock).unwrap();
    templates.call(&mut template, "base", &lock).unwrap();
    assert_eq!(templates.find("base").unwrap().record.name.as_deref(), Some("base"));
    let error = templates.call(&mut template, "other", &lock).unwrap_err().to_string();
    assert!(error.contains("called \"base\""), "{error}");
}

#[test]
fn one_that_cannot_be_read_keeps_nobody_from_the_others() {
    let (store, files) = (tempfile::tempdir().unwrap(), Files::new());
    let Some((templates, template)) = template(store.path(), &files, Some("base")) else { return };
    let [broken, empty] = ["0", "1"].map(|digit| digit.repeat(DIGITS));
    let unfinished = format!("{PENDING}{broken}");
    for name in [&broken, &empty, &unfinished] {
        fs::create_dir(templates.dir.join(name)).unwrap();
    }
    fs::write(templates.dir.join(&broken).join(RECORD), "{\"id\":\"0000").unwrap();
    assert_eq!(templates.list().unwrap().len(), 1);
    assert_eq!(templates.find("base").unwrap().record, template.record);
    let remains = templates.remains().unwrap();
    let names: Vec<_> = remains.iter().map(|remains| &remains.name).collect();
    assert_eq!(names, [&unfinished, &broken, &empty]);
    assert!(!remains[0].is_template() && remains[1].trouble.contains("EOF"), "{remains:?}");
    let lock = templates.try_lock().unwrap().unwrap();
    for remains in &remains {
        templates.sweep(remains, &lock).unwrap();
    }
    assert!(templates.remains().unwrap().is_empty() && templates.list().unwrap().len() == 1);
}

#[test]
fn a_full_disk_is_said_to_be_full() {
    let dir = tempfile::tempdir().unwrap();
    let said = |free| format!("{:#}", with_room(anyhow::anyhow!("QEMU died"), free, &dir.path().join("x")));
    let full = said(FULL);
    assert!(full.contains("no room") && full.contains("QEMU died"), "{full}");
    assert!(full.contains(&dir.path().display().to_string()), "{full}");
    assert_eq!(said(FULL + 1), "QEMU died");
    assert!(free(dir.path()).unwrap() > 0);
}
