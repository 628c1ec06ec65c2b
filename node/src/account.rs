//! Accounts of this machine's users.
//!
//! From the machine's own files and, for what is kept elsewhere (a directory service), from its
//! `getent`. Never through libc: its look-ups load modules made for the machine's own libc, which
//! a `phantom` that was built on another machine, or is one static file, must not do.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::doctor::command;
use crate::guard::control::Login;

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";
/// How long a directory service may take.
const LIMIT: Duration = Duration::from_secs(10);

/// What is known of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Login name.
    pub name: String,
    /// Home directory.
    pub home_dir: PathBuf,
}

/// The account with this user id.
pub fn of(uid: u32) -> Result<Account> {
    let passwd = std::fs::read(PASSWD).with_context(|| format!("cannot read {PASSWD}"))?;
    if let Some(account) = find(&passwd, uid) {
        return Ok(account);
    }
    match getent("passwd", &uid.to_string())? {
        Some(line) => find(line.as_bytes(), uid)
            .with_context(|| format!("`getent passwd {uid}` printed no account")),
        None => bail!("user id {uid} has no account on this machine"),
    }
}

/// The account with this login name, with its ids and groups.
pub fn named(name: &str) -> Result<Login> {
    let passwd = std::fs::read(PASSWD).with_context(|| format!("cannot read {PASSWD}"))?;
    let found = match login(&passwd, name) {
        Some(found) => Some(found),
        None => getent("passwd", name)?.and_then(|line| login(line.as_bytes(), name)),
    };
    let found = found.with_context(|| format!("there is no account `{name}` on this machine"))?;
    Ok(Login { groups: groups(name)?, ..found })
}

/// The account with this login name in the text of a passwd file, without groups.
fn login(passwd: &[u8], wanted: &str) -> Option<Login> {
    passwd.split(|&byte| byte == b'\n').find_map(|line| {
        let fields: Vec<&[u8]> = line.split(|&byte| byte == b':').collect();
        let &[name, _, uid, gid, _, home, _] = &fields[..] else { return None };
        (name == wanted.as_bytes()).then_some(())?;
        let home_dir = OsStr::from_bytes(home).into();
        let (uid, gid, groups) = (number(uid)?, number(gid)?, Vec::new());
        Some(Login { name: wanted.to_owned(), uid, gid, groups, home_dir })
    })
}

/// The groups of the user with this name besides the primary one.
pub fn groups(name: &str) -> Result<Vec<u32>> {
    // It knows those of the file too.
    if let Some(printed) = getent("initgroups", name)?
        && let Some(ids) = initgroups(&printed, name)
    {
        return Ok(ids);
    }
    let group = std::fs::read(GROUP).with_context(|| format!("cannot read {GROUP}"))?;
    Ok(memberships(&group, name))
}

/// The names of these groups, as far as they have one.
pub fn group_names(ids: &[u32]) -> Result<Vec<String>> {
    let group = std::fs::read(GROUP).with_context(|| format!("cannot read {GROUP}"))?;
    let mut names = Vec::new();
    for id in ids {
        let name = match group_name(&group, *id) {
            Some(name) => Some(name),
            None => {
                let printed = getent("group", &id.to_string())?;
                printed.and_then(|line| group_name(line.as_bytes(), *id))
            }
        };
        names.extend(name);
    }
    Ok(names)
}

/// The name of this group in the text of a group file.
fn group_name(group: &[u8], wanted: u32) -> Option<String> {
    group.split(|&byte| byte == b'\n').find_map(|line| {
        let fields: Vec<&[u8]> = line.split(|&byte| byte == b':').collect();
        let &[name, _, id, _] = &fields[..] else { return None };
        (number(id)? == wanted).then(|| String::from_utf8_lossy(name).into_owned())
    })
}

/// What `getent` says of `key`: `None` when it knows nothing, or is not there.
fn getent(database: &str, key: &str) -> Result<Option<String>> {
    match command::run(Command::new("getent").args([database, "--", key]), "", LIMIT) {
        Ok(outcome) if outcome.status.success() => Ok(Some(outcome.output)),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot run `getent {database} {key}`")),
    }
}

/// The account with this user id in the text of a passwd file.
fn find(passwd: &[u8], uid: u32) -> Option<Account> {
    passwd.split(|&byte| byte == b'\n').find_map(|line| {
        let fields: Vec<&[u8]> = line.split(|&byte| byte == b':').collect();
        let &[name, _, id, _, _, home, _] = &fields[..] else { return None };
        (number(id)? == uid).then_some(())?;
        let name = str::from_utf8(name).ok()?.to_owned();
        Some(Account { name, home_dir: OsStr::from_bytes(home).into() })
    })
}

/// Ids of the groups that list this user in the text of a group file.
fn memberships(group: &[u8], name: &str) -> Vec<u32> {
    let lists =
        |members: &[u8]| members.split(|&byte| byte == b',').any(|one| one == name.as_bytes());
    group
        .split(|&byte| byte == b'\n')
        .filter_map(|line| {
            let fields: Vec<&[u8]> = line.split(|&byte| byte == b':').collect();
            let &[_, _, id, members] = &fields[..] else { return None };
            if lists(members) { number(id) } else { None }
        })
        .collect()
}

/// What `getent initgroups` prints: the name, then ids.
fn initgroups(printed: &str, name: &str) -> Option<Vec<u32>> {
    printed.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == name).then(|| words.filter_map(|id| id.parse().ok()).collect())
    })
}

fn number(text: &[u8]) -> Option<u32> {
    str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_found_by_id() {
        let passwd = b"root:x:0:0:root:/root:/bin/bash\n\
            +::::::\n\
            half:x:1000\n\
            ada:x:1000:1000:Ada, of the attic:/home/\xe4da:/bin/bash\n";
        let ada = find(passwd, 1000).unwrap();
        assert_eq!(ada.name, "ada");
        assert_eq!(ada.home_dir.as_os_str().as_bytes(), b"/home/\xe4da");
        assert_eq!(find(passwd, 100), None);
        let ada = login(passwd, "ada").unwrap();
        assert_eq!((ada.uid, ada.gid, ada.home_dir.is_absolute()), (1000, 1000, true));
        assert_eq!(login(passwd, "half"), None);
        assert_eq!(find(b"", 0), None);
    }

    #[test]
    fn groups_are_those_that_list_the_name() {
        let group = b"adm:x:4:syslog,ada\nsudo:x:27:ada\nadas:x:30:adam\nada:x:1000:\nx:x:y:ada\n";
        assert_eq!(memberships(group, "ada"), [4, 27]);
        assert_eq!(group_name(group, 27).as_deref(), Some("sudo"));
        assert_eq!(group_name(group, 28), None);
        assert_eq!(initgroups("ada                   4 27\n", "ada"), Some(vec![4, 27]));
        assert_eq!(initgroups("ada\n", "ada"), Some(vec![]));
        assert_eq!(initgroups("getent: no such database\n", "ada"), None);
    }

    #[test]
    fn this_machine_knows_root_and_says_who_is_unknown() {
        assert_eq!(of(0).unwrap().name, "root");
        let line = getent("passwd", "0").unwrap().expect("getent comes with libc");
        assert_eq!(find(line.as_bytes(), 0), Some(of(0).unwrap()));
        let error = of(4_294_967_200).unwrap_err().to_string();
        assert!(error.contains("4294967200 has no account"), "{error}");
        let listed = memberships(&std::fs::read(GROUP).unwrap(), "root");
        let groups = groups("root").unwrap();
        assert!(listed.iter().all(|id| groups.contains(id)), "{listed:?} {groups:?}");
    }
}
