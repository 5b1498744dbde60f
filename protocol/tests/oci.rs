//! Our config types against the crate that knows the whole runtime-spec.

use protocol::oci::{
    Capabilities, ConsoleSize, Linux, Mount, Namespace, NamespaceKind, Process, Rlimit, Root, Spec, User,
};

#[test]
fn a_config_reads_the_same_with_oci_spec() {
    let caps = vec!["CAP_CHOWN".to_string()];
    let spec = Spec {
        oci_version: "1.2.0".into(),
        process: Process {
            terminal: true,
            console_size: Some(ConsoleSize { height: 24, width: 80 }),
            cwd: "/".into(),
            env: vec!["A=b=c d".into()],
            args: vec!["sh".into(), "-c".into(), "a, \"b\"\n".into()],
            rlimits: vec![Rlimit { kind: "RLIMIT_NOFILE".into(), soft: 1, hard: 2 }],
            user: User { uid: 1, gid: 2, umask: Some(0o27), additional_gids: vec![3, 4] },
            capabilities: Some(Capabilities {
                bounding: caps.clone(),
                effective: caps,
                ..Default::default()
            }),
            no_new_privileges: true,
            oom_score_adj: Some(-5),
        },
        root: Root { path: "rootfs".into(), readonly: true },
        hostname: Some("h".into()),
        domainname: Some("d".into()),
        mounts: vec![Mount {
            destination: "/proc".into(),
            kind: "proc".into(),
            source: Some("proc".into()),
            options: vec!["nosuid".into()],
        }],
        annotations: [("k".to_string(), "v".to_string())].into(),
        linux: Linux {
            namespaces: vec![
                Namespace { kind: NamespaceKind::Pid },
                Namespace { kind: NamespaceKind::Mount },
            ],
            sysctl: [("kernel.x".to_string(), "1".to_string())].into(),
            masked_paths: vec!["/proc/kcore".into()],
            readonly_paths: vec!["/proc/sys".into()],
        },
    };
    let json = serde_json::to_value(&spec).unwrap();
    let theirs: oci_spec::runtime::Spec = serde_json::from_value(json).unwrap();
    let back: Spec = serde_json::from_value(serde_json::to_value(&theirs).unwrap()).unwrap();
    assert_eq!(back, spec);
}

#[test]
fn unsupported_fields_are_named() {
    let base = r#"{"ociVersion":"1.0.2","process":{"cwd":"/","args":["a"]},"root":{"path":"rootfs"}"#;
    for (field, more) in [
        ("hooks", r#","hooks":{}}"#),
        ("seccomp", r#","linux":{"seccomp":{"defaultAction":"SCMP_ACT_ALLOW"}}}"#),
        ("user", r#","linux":{"namespaces":[{"type":"user"}]}}"#),
        ("path", r#","linux":{"namespaces":[{"type":"pid","path":"/proc/1/ns/pid"}]}}"#),
    ] {
        let error = serde_json::from_str::<Spec>(&format!("{base}{more}")).unwrap_err().to_string();
        assert!(error.contains(&format!("`{field}`")), "{error}");
    }
}
