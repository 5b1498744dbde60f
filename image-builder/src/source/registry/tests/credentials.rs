//! Config files; and credential helpers, good and bad, each a few lines of shell.

use std::os::unix::fs::PermissionsExt;

use base64::Engine;

use super::super::credentials::{BASE64, Login};
use super::super::helper::get;
use super::*;

/// A folder with a helper `test` of this script.
fn helper(script: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("docker-credential-test");
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

fn run(script: &str, timeout: Duration) -> Result<Option<Login>> {
    let dir = helper(script);
    get("test", "h:5000", dir.path().as_os_str(), timeout)
}

const LONG: Duration = Duration::from_secs(60);
/// Answers for one server alone.
const KNOWS: &str = r#"[ "$1" = get ] || exit 9; read -r server
case $server in
h:5000) echo '{"ServerURL":"h:5000","Username":"bob","Secret":"hunter2"}';;
https://index.docker.io/v1/) echo '{"Username":"<token>","Secret":"s3cr3t"}';;
*) echo 'credentials not found in native keychain'; exit 1;;
esac"#;

#[test]
fn helpers_are_asked_as_docker_asks_them() {
    assert_eq!(run(KNOWS, LONG).unwrap(), Some(Login::Password("bob".into(), PASSWORD.to_owned().into())));
    let dir = helper(KNOWS);
    let file = dir.path().join("config.json");
    let find = |json: &str, host: &str| {
        std::fs::write(&file, json).unwrap();
        let keeper = Keeper { path: dir.path().into(), ..keeper(file.clone()) };
        keeper.find(host, "x").unwrap().map(|it| (format!("{:?}", it.login), it.origin))
    };
    let (bob, origin) = ("Password(\"bob\", ***)".to_owned(), "docker-credential-test".to_owned());
    for json in [r#"{"credsStore":"test"}"#, r#"{"credHelpers":{"h:5000":"test"},"credsStore":"none"}"#] {
        assert_eq!(find(json, "h:5000"), Some((bob.clone(), origin.clone())));
    }
    assert_eq!(find(r#"{"credsStore":"test"}"#, "docker.io").unwrap().0, "IdentityToken(***)");
    assert_eq!(find(r#"{"credsStore":"test"}"#, "other"), None);
    // What a helper does not have may stand in the file.
    let both = r#"{"credsStore":"test","auths":{"other":{"auth":"YTpi"}}}"#;
    assert_eq!(find(both, "other").unwrap().1, file.display().to_string());
}

#[test]
fn helpers_that_misbehave_are_told() {
    for (script, part) in [
        ("echo 'no keyring\x1b[2J'; exit 3", "failed for h:5000: exit status: 3: \"no keyring\\u{1b}[2J\""),
        ("kill -9 $$", "signal: 9"),
        ("echo hunter2", "gave no JSON with Username and Secret"),
        ("echo '{\"Username\":\"hunter2\"}'", "gave no JSON"),
        ("exec yes hunter2", "says more than 64 KiB"),
    ] {
        let message = format!("{:#}", run(script, LONG).unwrap_err());
        assert!(message.contains(part), "{message}");
        assert!(message.contains("credential helper docker-credential-test"), "{message}");
        assert_no_secret(&message);
    }
    // It need not read its input.
    assert_eq!(run("exec <&-; echo '{\"Username\":\"\",\"Secret\":\"\"}'", LONG).unwrap(), None);
}

#[test]
fn a_helper_that_hangs_is_ended() {
    for script in ["exec sleep 20", "sleep 20 & exec >&-; wait", "sleep 20 & exit 0"] {
        let message = format!("{:#}", run(script, Duration::from_millis(50)).unwrap_err());
        assert!(message.contains("took too long"), "{message}");
    }
}

#[test]
fn config_files_as_docker_and_podman_write_them() {
    let auth = |user: &str| format!(r#"{{"auth":"{}"}}"#, BASE64.encode(format!("{user}:p:w")));
    let (a, b) = (auth("a"), auth("b"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    let find = |json: &str, host: &str, repository: &str| {
        std::fs::write(&file, json).unwrap();
        keeper(file.clone()).find(host, repository).map(|found| found.map(|it| it.login))
    };
    let user = |user: &str| Some(Login::Password(user.into(), "p:w".to_owned().into()));
    for (json, host, repository, expected) in [
        (
            format!(r#"{{"auths":{{"https://index.docker.io/v1/":{a}}}}}"#),
            "docker.io",
            "library/x",
            user("a"),
        ),
        (format!(r#"{{"auths":{{"docker.io":{a}}}}}"#), "docker.io", "library/x", user("a")),
        (format!(r#"{{"auths":{{"https://h:5000/v2/":{a}}}}}"#), "h:5000", "x", user("a")),
        (format!(r#"{{"auths":{{"h:5000":{a}}}}}"#), "h", "x", None),
        (format!(r#"{{"auths":{{"h/n":{a},"h":{b}}}}}"#), "h", "n/x", user("a")),
        (format!(r#"{{"auths":{{"h/n":{a},"h":{b}}}}}"#), "h", "nn/x", user("b")),
        (format!(r#"{{"auths":{{"h":{{}},"i":{a}}}}}"#), "h", "x", None),
        (r#"{"auths":{"h":{"username":"a","password":"p:w"}}}"#.into(), "h", "x", user("a")),
        (r#"{"auths":{"h":null},"credHelpers":null,"credsStore":""}"#.into(), "h", "x", None),
        (r#"{"auths":{"h":{"auth":"YTpwOncAAA"}}}"#.into(), "h", "x", user("a")),
        ("{}".to_owned(), "h", "x", None),
    ] {
        assert_eq!(find(&json, host, repository).unwrap(), expected, "{json}");
    }
    for (json, part) in [
        (r#"{"auths":{"h":{"auth":"hunter2"}}}"#, "auths of \"h\": \"auth\" is not base64 of USER:PASSWORD"),
        (r#"{"auths":{"h":{"auth":["hunter2"]}}}"#, "malformed JSON at line 1, column"),
        (r#"{"auths":"hunter2"}"#, "malformed JSON"),
        ("", "malformed JSON"),
        (r#"{"credsStore":"../evil"}"#, "\"../evil\" is not the name of a credential helper"),
        (r#"{"credHelpers":{"h":"no-such-helper"}}"#, "docker-credential-no-such-helper: not in $PATH"),
    ] {
        let message = format!("{:#}", find(json, "h", "x").unwrap_err());
        assert!(message.contains(part), "{message}");
        assert!(message.contains("config.json"), "{message}");
        assert_no_secret(&message);
    }
    let required = Keeper { required: true, ..keeper(PathBuf::from("/nowhere/auth.json")) };
    assert!(format!("{:#}", required.find("h", "x").unwrap_err()).contains("/nowhere/auth.json"));
    std::fs::write(&file, vec![b' '; (4 << 20) + 1]).unwrap();
    assert!(format!("{:#}", keeper(file).find("h", "x").unwrap_err()).contains("larger than 4 MiB"));
}

#[test]
fn damaged_config_files_end_in_an_error_or_not_at_all() {
    let good = r#"{"auths":{"h":{"auth":"Ym9iOmh1bnRlcjI=","identitytoken":null}},"credHelpers":{"i":"x"}}"#;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    for place in 0..good.len() {
        for inserted in [&b"\""[..], b"{", b"}", b":", b"/", b"\0", b"\xff", b"9", b"null"] {
            std::fs::write(
                &file,
                [&good.as_bytes()[..place], inserted, &good.as_bytes()[place + 1..]].concat(),
            )
            .unwrap();
            if let Err(error) = keeper(file.clone()).find("h", "x") {
                assert_no_secret(&format!("{error:#}"));
            }
        }
    }
}
