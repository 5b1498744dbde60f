//! Who is shown which credentials.

use std::sync::Mutex;

use base64::Engine;
use tempfile::TempDir;

use super::super::credentials::BASE64;
use super::*;

/// A config file with the given `auths` entry for the server.
fn config(address: impl std::fmt::Display, entry: &str) -> (TempDir, Keeper) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    std::fs::write(&file, format!(r#"{{"auths":{{"{address}":{entry}}},"HttpHeaders":{{}}}}"#)).unwrap();
    (dir, keeper(file))
}

fn password() -> String {
    format!(r#"{{"auth":"{}"}}"#, BASE64.encode(format!("bob:{PASSWORD}")))
}

fn basic() -> String {
    format!("Basic {}", BASE64.encode(format!("bob:{PASSWORD}")))
}

fn denied(challenge: &str) -> Reply {
    reply(
        "401 Unauthorized",
        &format!("WWW-Authenticate: {challenge}\r\n"),
        r#"{"errors":[{"message":"who?"}]}"#,
    )
}

/// A registry whose `/token` gives tokens that are good for `uses` requests each.
fn token_registry(uses: usize) -> Server {
    let stored = stored();
    // How many tokens there were, and how often the last was used.
    let tokens = Mutex::new((0, 0));
    Server::start(move |seen| {
        let mut tokens = tokens.lock().unwrap();
        if seen.path.starts_with("/token") {
            *tokens = (tokens.0 + 1, 0);
            return reply("200 OK", "", format!(r#"{{"token":"{TOKEN}{}","expires_in":60}}"#, tokens.0));
        }
        let good = seen.header("authorization") == Some(&format!("Bearer {TOKEN}{}", tokens.0));
        if !good || tokens.1 >= uses {
            let host = seen.header("host").unwrap();
            return denied(&format!(
                r#"Bearer realm="http://{host}/token?a=b",service="the \"s\"",scope="repository:x:pull""#
            ));
        }
        tokens.1 += 1;
        stored.answer(seen)
    })
}

/// A registry with basic authentication, for bob.
fn basic_registry() -> Server {
    let stored = stored();
    Server::start(move |seen| match seen.header("authorization") {
        Some(header) if header == basic() => stored.answer(seen),
        _ => denied("Basic realm=\"x\""),
    })
}

#[test]
fn basic_authentication_takes_the_password_of_the_config_file() {
    let server = basic_registry();
    let (_dir, keeper) = config(server.address, &password());
    pull_all(&server, keeper, limits()).unwrap();
    // The challenge comes once.
    assert_eq!(server.seen().iter().filter(|seen| seen.header("authorization").is_none()).count(), 1);
}

#[test]
fn a_refusal_says_which_credentials_there_were() {
    let server = basic_registry();
    let message = error(pull_all(&server, no_credentials(), limits()));
    let host = server.address;
    assert!(message.contains(&format!("no credentials for {host} in /nowhere/config.json")), "{message}");

    let wrong = format!(r#"{{"auth":"{}"}}"#, BASE64.encode(format!("eve:{PASSWORD}2")));
    let (dir, keeper) = config(host, &wrong);
    let message = error(pull_all(&server, keeper, limits()));
    let file = dir.path().join("config.json");
    let expected = format!("401 Unauthorized: \"who?\"; tried as user \"eve\" of {}", file.display());
    assert!(message.contains(&expected), "{message}");

    let (_dir, keeper) = config(host, &format!(r#"{{"identitytoken":"{TOKEN}"}}"#));
    assert!(
        error(pull_all(&server, keeper, limits()))
            .contains("wants a user and a password; tried with the token")
    );
}

#[test]
fn anonymous_tokens_are_asked_for_once() {
    let server = token_registry(usize::MAX);
    pull_all(&server, no_credentials(), limits()).unwrap();
    let seen = server.seen();
    let tokens: Vec<_> = seen.iter().filter(|seen| seen.path.starts_with("/token")).collect();
    assert_eq!(tokens.len(), 1);
    assert_eq!(tokens[0].path, "/token?a=b&service=the%20%22s%22&scope=repository%3Ax%3Apull");
    assert!(tokens[0].header("authorization").is_none());
}

#[test]
fn the_token_server_gets_the_password_and_the_registry_does_not() {
    let server = token_registry(usize::MAX);
    let (_dir, keeper) = config(server.address, &password());
    pull_all(&server, keeper, limits()).unwrap();
    for seen in server.seen() {
        let is_basic = seen.header("authorization") == Some(&basic());
        assert_eq!(is_basic, seen.path.starts_with("/token"), "{seen:?}");
    }
}

#[test]
fn an_identity_token_is_posted() {
    let server = token_registry(usize::MAX);
    let (_dir, keeper) = config(server.address, &format!(r#"{{"identitytoken":"{TOKEN}-refresh&x"}}"#));
    pull_all(&server, keeper, limits()).unwrap();
    let seen = server.seen().into_iter().find(|seen| seen.path.starts_with("/token")).unwrap();
    assert_eq!((seen.method.as_str(), seen.header("authorization")), ("POST", None));
    assert_eq!(seen.header("content-type"), Some("application/x-www-form-urlencoded"));
    let fields: Vec<_> = seen.body.split('&').collect();
    for field in ["grant_type=refresh%5Ftoken", "scope=repository%3Ax%3Apull", "client_id=containervm"] {
        assert!(fields.contains(&field), "{fields:?}");
    }
    assert!(fields.contains(&"refresh_token=s3cr3t%2Drefresh%26x"), "{fields:?}");
}

#[test]
fn a_registry_token_is_shown_as_it_is() {
    let server = token_registry(usize::MAX);
    let (_dir, keeper) = config(server.address, &format!(r#"{{"registrytoken":"{TOKEN}0"}}"#));
    pull_all(&server, keeper, limits()).unwrap();
    assert_eq!(server.count("/token"), 0);
}

#[test]
fn a_token_that_expires_in_the_middle_is_renewed() {
    let server = token_registry(2);
    pull_all(&server, no_credentials(), limits()).unwrap();
    assert_eq!(server.count("/token"), 2);
}

#[test]
fn many_threads_share_one_token() {
    let server = token_registry(usize::MAX);
    let name = name(&server, "");
    let repository = Arc::new(Repository::new(&name, false, no_credentials(), limits()).unwrap());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| repository.manifest("latest").unwrap());
        }
    });
    assert_eq!(server.count("/token"), 1);
}

#[test]
fn a_registry_that_always_refuses_is_asked_twice() {
    for (challenge, expected, requests) in [
        (r#"Bearer realm="http://HOST/token""#, "no access, or no such repository: 401", 2),
        ("Negotiate", "no kind of authentication that we know", 1),
        ("", "no kind of authentication that we know", 1),
        ("Bearer service=x", "names no token server", 1),
        ("Bearer realm=\"http://a b/\"", "token server is malformed", 1),
        ("Bearer realm=\"http://192.0.2.1/token\"", "token server 192.0.2.1 is plain http", 1),
        ("Bearer realm=\"http://x:y@HOST/token\"", "user's name in it", 1),
        ("Bearer realm=\"http://HOST/rubbish\"", "its answer is not a token's JSON", 1),
        ("Bearer realm=\"http://HOST/nothing\"", "its answer holds no token", 1),
        ("Bearer realm=\"http://HOST/broken\"", "a token or password with a line break", 1),
        ("Bearer realm=\"http://HOST/gone\"", "cannot get a token for x from 127.0.0.1:", 1),
        ("Bearer realm=\"http://HOST/deny\"", "403 Forbidden: \"wrong\"; tried as user \"bob\" of ", 1),
    ] {
        let server = Server::start(move |seen| match seen.path.split('?').next().unwrap() {
            "/token" => reply("200 OK", "", format!(r#"{{"access_token":"{TOKEN}"}}"#)),
            "/rubbish" => reply("200 OK", "", TOKEN),
            "/nothing" => reply("200 OK", "", "{}"),
            "/broken" => reply("200 OK", "", r#"{"token":"s3cr3t\r\nX: y"}"#),
            "/gone" => reply("404 Not Found", "", ""),
            "/deny" => reply("403 Forbidden", "", r#"{"details":"wrong"}"#),
            _ => denied(&challenge.replace("HOST", seen.header("host").unwrap())),
        });
        let (_dir, keeper) = config(server.address, &password());
        let message = error(pull_all(&server, keeper, limits()));
        assert!(message.contains(expected), "{expected:?} is not in {message:?}");
        assert_eq!(server.count("/v2/x"), requests, "{message}");
    }
}

/// By another port, and by another name of the same port; and back again, where they belong.
#[test]
fn redirects_take_no_credentials_elsewhere() {
    let stored = stored();
    let layer = stored.layers[1].clone();
    let known = stored.clone();
    let other = Server::start(move |seen| known.answer(seen));
    let elsewhere = other.address;
    let server = Server::start(move |seen| {
        let host = seen.header("host").unwrap();
        if host.starts_with("localhost") {
            return stored.answer(seen);
        }
        if seen.header("authorization") != Some(&basic()) {
            return denied("Basic realm=x");
        }
        let to = match seen.path.as_str() {
            path if path.contains(&layer) => format!("http://{elsewhere}{path}"),
            path if path.contains("blobs") => {
                format!("http://{}{path}", host.replace("127.0.0.1", "localhost"))
            }
            path if path.contains("latest") => seen.path.replace("latest", "late"),
            _ => return stored.answer(&Seen { path: "/v2/x/manifests/latest".into(), ..seen.clone() }),
        };
        reply("307 Temporary Redirect", &format!("Location: {to}\r\n"), "")
    });
    let (_dir, keeper) = config(server.address, &password());
    pull_all(&server, keeper, limits()).unwrap();
    assert_eq!(other.seen().len(), 1);
    assert!(other.seen()[0].header("authorization").is_none());
    for seen in server.seen() {
        let is_own = seen.header("host").unwrap().starts_with("127.");
        let has = seen.header("authorization").is_some();
        assert!(has == is_own || seen.path.ends_with("latest"), "{seen:?}");
    }
    assert_eq!(server.count("manifests/late"), 3);
}

/// One that we were led to cannot make us authenticate.
#[test]
fn a_challenge_from_elsewhere_is_no_challenge() {
    let other = Server::start(|_| denied("Basic realm=x"));
    let elsewhere = other.address;
    let server = Server::start(move |_| {
        reply("302 Found", &format!("Location: http://{elsewhere}/z?signature={TOKEN}\r\n"), "")
    });
    let (_dir, keeper) = config(server.address, &password());
    let message = error(pull_all(&server, keeper, limits()));
    assert!(message.contains(&format!("redirected to {elsewhere}: 401 Unauthorized")), "{message}");
    assert_eq!(other.seen().len(), 1);
}
