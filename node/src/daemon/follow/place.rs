//! What a service needs of this node: an account, a program, a folder. Looking it up may block.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use phantom_discovery::machine::follow::Terms;
use phantom_model::Follow;

use super::state::Folder;
use crate::account;
use crate::guard::control::Login;

/// How the service is run on this node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Whose rights it has.
    pub user: Login,
    /// Its state.
    pub folder: Option<Folder>,
    /// How often its state is looked at.
    save: Duration,
    /// How long it may take to end.
    pub stop: Duration,
}

impl Place {
    /// Finds it, or says why the service cannot run on this node, which is called `node`.
    pub fn find(follow: &Follow, node: &str, owner_allows: bool) -> Result<Self, String> {
        if !owner_allows {
            return Err(format!(
                "the owner of {node} lets no service follow (`follow = false` in phantom.toml)"
            ));
        }
        if !follow.may_run_on(node) {
            let nodes = follow.nodes.as_ref().map_or(String::new(), |nodes| nodes.join(", "));
            return Err(format!("the policy does not let it run on {node}, only on {nodes}"));
        }
        let user = account::named(&follow.user).map_err(|error| format!("{node}: {error:#}"))?;
        let program = follow.command.first().map(Path::new).ok_or("it has no command")?;
        let can_run = std::fs::metadata(program)
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0);
        if !can_run {
            let program = program.display();
            return Err(format!("{program} is no program on {node}: install it there"));
        }
        phantom_capsule::cgroup::hierarchy().map_err(|error| format!("{node}: {error}"))?;
        let folder = follow.state.as_ref().map(|path| Folder {
            path: PathBuf::from(path),
            uid: user.uid,
            gid: user.gid,
        });
        let (save, stop) = (follow.save.0, follow.stop.0);
        Ok(Self { command: follow.command.clone(), user, folder, save, stop })
    }

    /// What the machine has to know of it.
    pub fn terms(&self) -> Terms {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        Terms {
            version: hasher.finish(),
            stop: self.stop,
            save: self.folder.as_ref().map(|_| self.save),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow(more: &str) -> Follow {
        let text = format!(
            "[[follow]]\nname = \"keeper\"\ncommand = [\"/bin/sh\"]\nuser = \"root\"\n{more}"
        );
        text.parse::<phantom_model::Policy>().unwrap().follows.remove(0)
    }

    #[test]
    fn why_it_cannot_run_is_said() {
        let refused = |follow: &Follow| Place::find(follow, "attic", true).unwrap_err();
        let said = Place::find(&follow(""), "attic", false).unwrap_err();
        assert!(said.contains("owner of attic"), "{said}");
        let said = refused(&follow("nodes = [\"cellar\", \"lab-*\"]"));
        assert!(said.contains("only on cellar, lab-*"), "{said}");
        let said = refused(&Follow { user: "no-such-user".into(), ..follow("") });
        assert!(said.contains("no account `no-such-user`"), "{said}");
        let said = refused(&Follow { command: vec!["/etc/passwd".into()], ..follow("") });
        assert!(said.contains("/etc/passwd is no program"), "{said}");
    }

    #[test]
    fn other_terms_are_another_version() {
        let version = |more: &str| {
            Place::find(&follow(more), "attic", true).map(|place| place.terms().version)
        };
        if phantom_capsule::cgroup::hierarchy().is_err() {
            println!("SKIP: needs control groups of version 2");
            return;
        }
        assert_eq!(version("").unwrap(), version("").unwrap());
        assert_ne!(version("").unwrap(), version("state = \"/run/x\"").unwrap());
    }
}
