use super::*;
use oci_spec::image::ConfigBuilder;
use protocol::Uuid;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn words(text: &str) -> Vec<String> {
    text.split_ascii_whitespace().map(str::to_owned).collect()
}

fn disks() -> Disks {
    let layer = protocol::Layer { uuid: Uuid::from_bytes([1; 16]), verity: None };
    Disks { layers: vec![layer], scratch: Uuid::from_bytes([2; 16]), ephemeral: false }
}

fn composed(image: &Config, options: &RunOptions) -> Result<MachineSpec> {
    let size = ConsoleSize { height: 24, width: 80 };
    compose(image, options, ID, disks(), Some(size), |name| Ok((name == "HOST").then(|| "here".to_owned())))
}

#[test]
fn entrypoint_and_command() {
    // Image's entrypoint, image's command, --entrypoint, COMMAND, what runs.
    let rows = [
        ("", "sh", None, "", "sh"),
        ("", "sh", None, "echo hi", "echo hi"),
        ("tini --", "app -v", None, "", "tini -- app -v"),
        ("tini --", "app -v", None, "ls", "tini -- ls"),
        ("tini --", "app", Some("busybox"), "", "busybox"),
        ("tini --", "app", Some("busybox"), "ls /", "busybox ls /"),
        ("tini --", "app", Some(""), "ls", "ls"),
        ("tini --", "", None, "", "tini --"),
        ("", "", None, "", ""),
        ("tini --", "app", Some(""), "", ""),
    ];
    for (entrypoint, cmd, option, command, expected) in rows {
        let image = ConfigBuilder::default().entrypoint(words(entrypoint)).cmd(words(cmd)).build().unwrap();
        let mut options = RunOptions::new("img");
        options.entrypoint = option.map(str::to_owned);
        options.command = words(command);
        let row = (entrypoint, cmd, option, command);
        match composed(&image, &options) {
            Ok(spec) => assert_eq!(spec.config.process.args, words(expected), "{row:?}"),
            Err(error) => assert!(expected.is_empty() && error.to_string().contains("no command"), "{row:?}"),
        }
    }
}

#[test]
fn environment_variables() {
    let image = ConfigBuilder::default()
        .cmd(words("sh"))
        .env(words("PATH=/bin A=image B=image X=1=2"))
        .build()
        .unwrap();
    let mut options = RunOptions::new("img");
    options.env = ["A=user=1", "HOST", "B", "NEW="].map(str::to_owned).to_vec();
    let env = composed(&image, &options).unwrap().config.process.env;
    assert_eq!(env, ["PATH=/bin", "HOSTNAME=0123456789ab", "A=user=1", "X=1=2", "HOST=here", "NEW="]);

    options.env = vec![];
    options.tty = true;
    let bare = ConfigBuilder::default().cmd(words("sh")).build().unwrap();
    let process = composed(&bare, &options).unwrap().config.process;
    assert_eq!(process.env, [defaults::PATH, "HOSTNAME=0123456789ab", "TERM=xterm"]);
    assert_eq!(process.console_size, Some(ConsoleSize { height: 24, width: 80 }));

    for bad in ["", "=x"] {
        options.env = vec![bad.to_owned()];
        assert!(composed(&bare, &options).is_err(), "{bad:?}");
    }
}

#[test]
fn users_folders_and_hostnames() {
    let image =
        ConfigBuilder::default().cmd(words("sh")).user("web:www").working_dir("/srv").build().unwrap();
    let mut options = RunOptions::new("img");
    let spec = composed(&image, &options).unwrap();
    assert_eq!((spec.user.as_deref(), &*spec.config.process.cwd), (Some("web:www"), "/srv"));
    assert_eq!(spec.config.hostname.as_deref(), Some("0123456789ab"));
    assert_eq!(spec.config.process.console_size, None, "without -t");
    assert!(!spec.config.root.readonly);

    options.user = Some("7".into());
    options.workdir = Some("/tmp".into());
    options.hostname = Some("db-1.example".into());
    options.read_only = true;
    let spec = composed(&image, &options).unwrap();
    assert_eq!((spec.user.as_deref(), &*spec.config.process.cwd), (Some("7"), "/tmp"));
    assert_eq!(spec.config.hostname.as_deref(), Some("db-1.example"));
    assert!(spec.config.process.env.contains(&"HOSTNAME=db-1.example".to_owned()));
    assert!(spec.config.root.readonly);

    let relative = ConfigBuilder::default().cmd(words("sh")).working_dir("app").user("").build().unwrap();
    let spec = composed(&relative, &RunOptions::new("img")).unwrap();
    assert_eq!((spec.user.as_deref(), &*spec.config.process.cwd), (Some("0"), "/app"));

    options.workdir = Some("tmp".into());
    assert!(composed(&image, &options).unwrap_err().to_string().contains("absolute"));
    options.workdir = None;
    for bad in ["a b", "a\n", "a#b", &"x".repeat(65), "é"] {
        options.hostname = Some(bad.into());
        assert!(composed(&image, &options).is_err(), "{bad:?}");
        (options.hostname, options.network.domainname) = (None, Some(bad.into()));
        assert!(composed(&image, &options).is_err(), "{bad:?}");
        options.network.domainname = None;
    }
    for (good, hostname) in [("a_b", "a_b"), ("a..b", "a..b"), ("", "0123456789ab")] {
        (options.hostname, options.network.domainname) = (Some(good.into()), Some(good.into()));
        let config = composed(&image, &options).unwrap().config;
        assert_eq!(config.hostname.as_deref(), Some(hostname));
        assert_eq!(config.domainname.as_deref(), Some(good).filter(|name| !name.is_empty()));
    }
}

/// Docker's defaults, as its users see them.
#[test]
fn the_rest_is_dockers() {
    let image = ConfigBuilder::default().cmd(words("sh")).build().unwrap();
    let spec = composed(&image, &RunOptions::new("img")).unwrap();
    let config = spec.config;
    assert_eq!((spec.version, spec.disks), (protocol::SPEC_VERSION, disks()));
    assert_eq!(config.root.path, "rootfs");
    let capabilities = config.process.capabilities.unwrap();
    assert_eq!(capabilities.bounding.len(), 14);
    assert_eq!(
        (&capabilities.effective, &capabilities.permitted),
        (&capabilities.bounding, &capabilities.bounding)
    );
    assert!(capabilities.inheritable.is_empty() && capabilities.ambient.is_empty());
    let destinations: Vec<_> = config.mounts.iter().map(|mount| mount.destination.as_str()).collect();
    assert_eq!(
        destinations,
        ["/proc", "/dev", "/dev/pts", "/sys", "/sys/fs/cgroup", "/dev/mqueue", "/dev/shm"]
    );
    assert!(config.mounts[3].options.contains(&"ro".to_owned()));
    assert_eq!(config.linux.namespaces.len(), 5);
    assert!(config.linux.masked_paths.contains(&"/proc/kcore".to_owned()));
    assert!(config.linux.readonly_paths.contains(&"/proc/sys".to_owned()));
}
