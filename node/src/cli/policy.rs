//! `phantom policy show|edit|history`.

use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use super::args::Policy;
use super::{DEADLINE, print_json};
use crate::api::client::{Client, Refused};
use crate::api::types::{PolicyRequest, PolicyRow};

/// What an editor shows where there is no policy yet.
const TEMPLATE: &str = "\
# Policy of this sub-grid. All members obey the newest version they know.

# [defaults]
# limits = \"cpu=150%/10s,memory=2GiB\"     # for apps started without limits of their own

# [[ceiling]]                             # nobody of these may set higher ones
# who = [\"group:students\", \"user:bob\"]    # or \"everybody\"
# limits = \"cpu=100%\"

# [[place]]                               # who may run where; the first that fits counts
# who = [\"group:students\"]
# homes = [\"lab-*\"]                       # started on these nodes; on any when absent
# nodes = [\"office-*\"]                    # may their apps move there? anywhere when absent
#                                         # `vo:NAME` in who, homes or nodes: see `phantom vo`
# allow = false

# [[follow]]                              # runs wherever the super-peer is
# name = \"redis\"
# command = [\"/usr/bin/redis-server\", \"/etc/redis.conf\"]    # stays in the foreground
# user = \"redis\"
# state = \"/var/lib/redis\"              # its files, at most 48 KiB when packed, go along
# nodes = [\"attic\", \"lab-*\"]           # only there; anywhere when absent
# save = \"5s\"                           # how often its files are looked at
# stop = \"10s\"                          # how long it may take to end by itself
";

/// Does what was asked.
pub async fn run(client: &Client, what: Policy, json: bool) -> anyhow::Result<()> {
    match what {
        Policy::Show => {
            let row: PolicyRow = client.get("/v1/policy").await?;
            if json {
                return print_json(&row);
            }
            if row.version == 0 {
                println!(
                    "No policy yet: `sudo phantom policy edit` where the sub-grid was founded."
                );
                return Ok(());
            }
            println!("# version {}, signed {}", row.version, when(row.signed_unix_s));
            print!("{}", row.text);
        }
        Policy::History => {
            history(&client.get::<Vec<PolicyRow>>("/v1/policy/history").await?, json)?
        }
        Policy::Edit { file } => {
            let row: PolicyRow = client.get("/v1/policy").await?;
            let signed = match file {
                Some(file) => {
                    let request = PolicyRequest { text: read(&file)?, seen: row.version };
                    client.post::<_, PolicyRow>("/v1/policy", &request, DEADLINE).await?
                }
                None => match edit(client, &row).await? {
                    Some(signed) => signed,
                    None => {
                        println!("Nothing was changed.");
                        return Ok(());
                    }
                },
            };
            if json {
                return print_json(&signed);
            }
            println!("Version {} is signed; members obey it as they hear of it.", signed.version);
        }
    }
    Ok(())
}

fn read(file: &Path) -> anyhow::Result<String> {
    if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

/// Lets the user change the text until it is taken. What was typed is never lost.
async fn edit(client: &Client, row: &PolicyRow) -> anyhow::Result<Option<PolicyRow>> {
    if !std::io::stdin().is_terminal() {
        bail!("there is no terminal to edit in; give the text with `--file FILE`");
    }
    let before = if row.version == 0 { TEMPLATE } else { row.text.as_str() };
    let draft = Draft::new(before)?;
    loop {
        draft.open_editor()?;
        let text = draft.text()?;
        if text == before {
            return Ok(None);
        }
        let request = PolicyRequest { text, seen: row.version };
        match client.post("/v1/policy", &request, DEADLINE).await {
            Ok(signed) => return Ok(Some(signed)),
            Err(error) => {
                let usage = error.downcast_ref::<Refused>().is_some_and(|it| it.exit_code == 2);
                if !usage {
                    return Err(draft.keep(error));
                }
                eprintln!("phantom: {error:#}");
                eprint!("Press Enter to mend it, Ctrl-D to leave it: ");
                let _ = std::io::stderr().flush();
                if std::io::stdin().read_line(&mut String::new())? == 0 {
                    return Err(draft.keep(error));
                }
            }
        }
    }
}

/// The text while it is edited, in a file that only the user can read.
struct Draft {
    path: PathBuf,
    keep: std::cell::Cell<bool>,
}

impl Draft {
    fn new(text: &str) -> anyhow::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;
        let name = format!("phantom-policy-{:08x}.toml", rand::random::<u32>());
        let path = std::env::temp_dir().join(name);
        let draft = Self { path, keep: std::cell::Cell::new(false) };
        let open =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft.path);
        open.and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("cannot write {}", draft.path.display()))?;
        Ok(draft)
    }

    fn open_editor(&self) -> anyhow::Result<()> {
        let chosen = ["VISUAL", "EDITOR"].iter().find_map(|name| std::env::var(name).ok());
        let editor = chosen.filter(|it| !it.trim().is_empty()).unwrap_or_else(|| "vi".to_owned());
        // With its arguments, as everybody else starts it.
        let script = format!("{editor} \"$1\"");
        let status = Command::new("sh").args(["-c", &script, "sh"]).arg(&self.path).status();
        let status = status.with_context(|| format!("cannot start the editor `{editor}`"))?;
        if !status.success() {
            bail!("the editor `{editor}` failed ({status}): set EDITOR, or use `--file FILE`");
        }
        Ok(())
    }

    fn text(&self) -> anyhow::Result<String> {
        read(&self.path)
    }

    /// The error, with where the text still is.
    fn keep(&self, error: anyhow::Error) -> anyhow::Error {
        self.keep.set(true);
        error.context(format!("not signed; what you wrote is in {}", self.path.display()))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.keep.get() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn history(rows: &[PolicyRow], json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(&rows);
    }
    if rows.is_empty() {
        println!("No policy yet.");
    }
    let mut before = "";
    for row in rows {
        let mark = if row.counts { ", counts" } else { "" };
        println!("version {}, {}{mark}", row.version, when(row.signed_unix_s));
        for line in changes(before, &row.text) {
            println!("  {line}");
        }
        before = &row.text;
    }
    Ok(())
}

/// The lines that went and came, without those that say nothing.
fn changes(before: &str, after: &str) -> Vec<String> {
    let said = |text: &str| -> Vec<String> {
        let lines = text.lines().map(str::trim_end);
        lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
    };
    let (old, new) = (said(before), said(after));
    let gone = old.iter().filter(|line| !new.contains(line)).map(|line| format!("- {line}"));
    let come = new.iter().filter(|line| !old.contains(line)).map(|line| format!("+ {line}"));
    gone.chain(come).collect()
}

/// A time as `date` prints it, in the user's zone.
fn when(unix_s: u64) -> String {
    let date = Command::new("date").args(["-d", &format!("@{unix_s}"), "+%F %T"]).output();
    let text = date.ok().filter(|output| output.status.success());
    let text = text.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_else(|| format!("{unix_s} s after 1970"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_a_policy_also_without_its_comment_signs() {
        TEMPLATE.parse::<phantom_model::Policy>().unwrap();
        let bare: String = TEMPLATE
            .lines()
            .map(|line| line.strip_prefix("# ").filter(|line| line.contains(['=', '['])))
            .map(|line| format!("{}\n", line.unwrap_or_default()))
            .collect();
        let policy: phantom_model::Policy = bare.parse().unwrap();
        assert!(policy.ceilings.len() == 1 && policy.places.len() == 1);
    }

    #[test]
    fn what_changed_is_shown() {
        let (one, two) = ("# x\na = 1\nb = 2\n", "# y\na = 1\nb = 3\n");
        assert_eq!(changes(one, two), ["- b = 2", "+ b = 3"]);
    }
}
