/** Walking paths with symbolic links: the same for every file system here. */

/** One thing in a file system, as its reader knows it. */
export interface Walkable<Node> {
  readonly root: Node;
  /** What stands under `name` in a directory; null when nothing does or `node` is no directory. */
  lookup(node: Node, name: string): Node | null;
  /** Where a symbolic link leads; null when `node` is none. */
  link(node: Node): string | null;
}

/** Links followed in one path, as in Linux (MAXSYMLINKS of <linux/namei.h>). */
const MAX_LINKS = 40;
/** PATH_MAX of <linux/limits.h>. */
const MAX_PATH = 4096;

/** Finds what an absolute path names, links followed, the last one too. Null when there is nothing, or links circle. */
export function walk<Node>(system: Walkable<Node>, path: string): Node | null {
  // The way down, for `..`; absolute links start anew from the root.
  let trail: Node[] = [system.root];
  const parts = split(path);
  let links = 0;
  while (parts.length > 0) {
    const name = parts.pop()!;
    if (name === "" || name === ".") continue;
    if (name === "..") {
      if (trail.length > 1) trail.pop();
      continue;
    }
    const next = system.lookup(trail[trail.length - 1], name);
    if (next === null) return null;
    const target = system.link(next);
    if (target === null) {
      trail.push(next);
      continue;
    }
    if (++links > MAX_LINKS || target.length > MAX_PATH || parts.length > MAX_PATH) return null;
    if (target.startsWith("/")) trail = [system.root];
    parts.push(...split(target));
  }
  return trail[trail.length - 1];
}

/** The parts, last one first. */
function split(path: string): string[] {
  return path.split("/").reverse();
}
