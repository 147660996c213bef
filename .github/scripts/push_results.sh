#!/usr/bin/env bash
# push_results.sh BRANCH PATCH MESSAGE [--replace]: commit what a benchmark measured, and push it to its branch. Run in a
# checkout of the commit that was measured. A branch that moved meanwhile is rebased on; where it changed the same results,
# nothing is pushed. With --replace a branch bench/... is that one commit, whatever it was before. An empty patch is no commit.
# The last line is "pushed", or why nothing was.
set -euo pipefail
die() {
    echo "push_results.sh: $*" >&2
    exit 2
}
[ $# = 3 ] || [ "${4:-}" = --replace ] || die "usage: push_results.sh BRANCH PATCH MESSAGE [--replace]"
branch="$1" patch="$2" message="$3" replace="${4:-}"
git check-ref-format "refs/heads/$branch" || die "$branch is no name of a branch"
[[ -z "$replace" || "$branch" = bench/* ]] || die "$branch is not replaced, only bench/..."
# the id in the address is that of GitHub's own bot
export GIT_AUTHOR_NAME="github-actions[bot]" GIT_AUTHOR_EMAIL="41898282+github-actions[bot]@users.noreply.github.com"
export GIT_COMMITTER_NAME="$GIT_AUTHOR_NAME" GIT_COMMITTER_EMAIL="$GIT_AUTHOR_EMAIL"

[ -f "$patch" ] || die "there is no $patch"
if [ ! -s "$patch" ]; then
    echo "nothing changed"
    exit 0
fi
git apply --index --whitespace=nowarn "$patch"
others="$(git diff --cached --name-only -- . ':!metrics' ':!docs' ':!README.md' ':(exclude,glob)**/dvc.lock')"
[ -z "$others" ] || die "these are no results: $others"
git commit --quiet --message "$message"

if [ -n "$replace" ]; then
    git push --quiet --force origin "HEAD:refs/heads/$branch" || die "could not push to $branch; is it protected?"
    echo "pushed"
    exit 0
fi
for _ in 1 2 3 4 5; do
    if git push --quiet origin "HEAD:refs/heads/$branch"; then
        echo "pushed"
        exit 0
    fi
    git fetch --quiet origin "refs/heads/$branch" || die "there is no branch $branch any more"
    git rebase --quiet FETCH_HEAD || {
        git rebase --abort
        die "$branch got other results meanwhile; start the benchmark again"
    }
done
die "could not push to $branch; is it protected? measure on the branch of a pull request"
