/** A read-only file system, as the search for a kernel sees it. Paths are absolute, `/`-separated; links are followed. */

/** What a path names. */
export interface FileStatus {
  type: "file" | "directory" | "symlink" | "other";
  size: number;
}

/** Read-only access to one file system. Methods throw an Error in words on damage; nothing loops for ever. */
export interface FileSystem {
  /** `ext4`, `vfat`, `iso9660` ... as blkid(8) names it. */
  readonly type: string;
  /** As blkid(8) prints it; null when there is none. */
  readonly uuid: string | null;
  readonly label: string | null;
  /** What a user should know of its state, in sentences: an unreplayed journal, damage that was passed over. */
  readonly problems?: readonly string[];
  /** Null when there is no such path. */
  stat(path: string): FileStatus | null;
  /** Names in a directory, without `.` and `..`; sorted. */
  list(path: string): string[];
  /** The whole of a file. Throws when it is larger than `limit` bytes (default 1 GiB). */
  read(path: string, limit?: number): Uint8Array;
}
