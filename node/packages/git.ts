// Chutes from git repositories: git itself fetches one revision, without its history, into a folder that goes with the request,
// and hands out what is in it as a tar. There is never a work tree, so nothing that a repository holds (links, filters, hooks,
// submodules) can have an effect here.
import { mkdir, mkdtemp, readdir, rm, stat, statfs, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { printable } from '../../protocols/compose-remarks.js'
import { MeshError } from '../../protocols/error.js'
import { type GitSource, isCommit, shownUrl } from '../../protocols/git-url.js'
import { unlessAborted } from '../chutes/docker-client.js'
import { Git, kill } from './git-process.js'

export interface GitLimits {
  /** Bytes of a repository on disk, and of the files of one revision: what a chute is built from, many times over. */
  readonly bytes: number
  readonly files: number
  /** Milliseconds for all of it, and without a sign of life from the other side. */
  readonly deadline: number
  readonly silence: number
}

const LIMITS: GitLimits = { bytes: 2 ** 30, files: 100_000, deadline: 900_000, silence: 60_000 }

/** Fetched at the same time. */
const AT_ONCE = 2

/** Bytes that stay free on the disk, where the ledger lives too. */
const MIN_FREE = 256 * 2 ** 20

/** How often is looked what lies on the disk, in milliseconds: at 100 MB/s that is 20 MB too much. */
const LOOK_EVERY = 200

/** Submodules that are named to who publishes. */
const MAX_NAMED = 20

/** Attributes that would leave files out, or have them changed on the way. They go before those of the repository. */
const ATTRIBUTES = '* -export-ignore -export-subst -filter -ident\n'

/** One revision that was fetched, and looked through. */
export interface FetchedSource {
  readonly commit: string
  readonly files: number
  /** Of these files. */
  readonly bytes: number
  /** The files as a tar, without `.git`. It fails where it is cut short. */
  tar(): AsyncIterable<Uint8Array>
}

export class GitSources {
  private running = 0

  private constructor(
    private readonly dir: string,
    private readonly limits: GitLimits,
  ) {}

  /** @param dir a folder of its own: what an earlier process left there is removed */
  static async open(dir: string, limits: GitLimits = LIMITS): Promise<GitSources> {
    await remove(dir)
    return new GitSources(dir, limits)
  }

  /**
   * Fetches a revision, and removes it when `take` is done.
   * @param say gets git's words, a line each
   * @param signal ends it
   * @throws MeshError `no-git`; `git-unreachable`, `git-access`, `git-repository`, `git-ref`, `git-folder`; `git-too-big`,
   *   `git-too-slow`; `busy`; `git` for all else
   */
  async fetch(
    source: GitSource,
    say: (line: string) => void,
    signal: AbortSignal,
    take: (fetched: FetchedSource) => Promise<void>,
  ): Promise<void> {
    if (this.running >= AT_ONCE) {
      throw new MeshError('busy', `${AT_ONCE} repositories are being fetched on this AP; try again in a minute`)
    }
    this.running++
    try {
      await mkdir(this.dir, { recursive: true, mode: 0o700 })
      const folder = await mkdtemp(join(this.dir, 'git-'))
      try {
        await new Repository(folder, source, this.limits, signal).fetch(say, take)
      } finally {
        await remove(folder)
      }
    } finally {
      this.running--
    }
  }
}

/** More than once where a git that was killed is not quite dead. */
const remove = (folder: string) => rm(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 })

/** A repository that is on disk for as long as one request lasts. */
class Repository {
  private readonly home: string
  private readonly dir: string
  private readonly git: Git
  private readonly stop = new AbortController()
  private readonly ended: AbortSignal

  constructor(
    folder: string,
    private readonly source: GitSource,
    private readonly limits: GitLimits,
    signal: AbortSignal,
  ) {
    const { repository, scheme } = source
    this.home = join(folder, 'home')
    this.dir = join(folder, 'repository')
    this.ended = AbortSignal.any([signal, this.stop.signal])
    this.git = new Git({
      ...{ dir: this.dir, home: this.home, signal: this.ended },
      // Also where a server redirects to. Without ext, which runs commands, and file, in any case.
      protocols: scheme === 'http' ? ['http', 'https'] : [scheme],
      settings: {
        'remote.origin.url': repository,
        'core.hooksPath': '/dev/null',
        // Files of some size are streamed, and not held in memory.
        'core.bigFileThreshold': '8m',
        'fetch.unpackLimit': '1',
        'pack.threads': '1',
        'tar.umask': '0022', // as in a checkout of most people
      },
    })
  }

  async fetch(say: (line: string) => void, take: (fetched: FetchedSource) => Promise<void>): Promise<void> {
    const { deadline } = this.limits
    const late = () => this.stop.abort(this.tooSlow(`it took more than ${deadline / 1000} s`))
    const timer = setTimeout(late, deadline)
    try {
      const fetched = await this.get(say)
      // Who does not read what it asked for must not hold it for ever.
      await unlessAborted(take(fetched), this.ended)
    } finally {
      clearTimeout(timer)
    }
  }

  private async get(say: (line: string) => void): Promise<FetchedSource> {
    const { ref = 'HEAD', folder } = this.source
    await mkdir(this.home)
    await mkdir(this.dir)
    const watching = this.watch()
    try {
      await this.run(['init', '--quiet', '--bare', '--template='])
      await mkdir(join(this.dir, 'info'), { recursive: true })
      await writeFile(join(this.dir, 'info/attributes'), ATTRIBUTES)
      const shallow = ['--depth=1', '--no-tags', '--no-recurse-submodules', '--no-auto-maintenance']
      await this.run(['fetch', '--progress', ...shallow, '--', 'origin', ref], (line) => {
        watching.heard()
        say(line)
      })
      // What came so fast that nobody looked meanwhile is too much all the same.
      await watching.look()
      this.ended.throwIfAborted()
      const commit = await this.git.tell(['rev-parse', '--verify', '--quiet', 'FETCH_HEAD^{commit}'])
      if (commit === '') throw this.refusal('git-ref', `${ref} is no commit there`)
      await this.checkFolder(commit)
      const tree = `${commit}:${folder}`
      const { files, bytes, submodules } = await this.look(tree)
      for (const path of submodules.slice(0, MAX_NAMED)) say(`${printable(path)} is a submodule, and stays empty`)
      const pointers = ['grep', '--quiet', '--fixed-strings', 'filter=lfs', commit, '--', ':(glob)**/.gitattributes']
      if ((await this.git.run(pointers)).status === 0)
        say('files that are kept in Git LFS are not fetched: in their place stand its pointers')
      return { commit, files, bytes, tar: () => this.archive(tree) }
    } finally {
      watching.end()
    }
  }

  private async run(args: string[], onLine?: (line: string) => void): Promise<void> {
    const { status, words } = await this.git.run(args, onLine)
    if (status !== 0) throw this.failure(words)
  }

  private async checkFolder(commit: string): Promise<void> {
    const { folder } = this.source
    const type = folder === '' ? 'tree' : await this.git.tell(['cat-file', '-t', `${commit}:${folder}`])
    if (type === 'tree') return
    const kinds: Record<string, string> = { blob: 'a file or a link', commit: 'a submodule' }
    const why = type in kinds ? `is ${kinds[type]}, and no folder` : 'is not there'
    throw this.refusal(
      'git-folder',
      `${folder} ${why}; what stands behind the second ":" is a folder of the repository`,
    )
  }

  /** Counts what is in a tree before any of it is sent: a small repository can hold the same file a billion times. */
  private async look(tree: string): Promise<{ files: number; bytes: number; submodules: string[] }> {
    const { limits } = this
    const found = { files: 0, bytes: 0, submodules: [] as string[] }
    const child = this.git.start(['ls-tree', '-r', '-l', '-z', tree])
    let rest = ''
    for await (const chunk of child.stdout.setEncoding('utf8')) {
      const entries = (rest + chunk).split('\0')
      rest = entries.pop()!
      for (const entry of entries) {
        const [, type, size, path] = /^\d+ (\w+) [0-9a-f]+ +(\d+|-)\t(.*)$/s.exec(entry) ?? []
        found.files++
        found.bytes += Number(size === '-' ? 0 : size)
        if (type === 'commit') found.submodules.push(path!)
      }
      if (found.files <= limits.files && found.bytes <= limits.bytes) continue
      kill(child)
      throw this.tooBig(`its files are more than ${limits.files}, or than ${mib(limits.bytes)}`)
    }
    const { status, words } = await child.ended
    if (status !== 0) throw this.failure(words)
    return found
  }

  private async *archive(tree: string): AsyncGenerator<Uint8Array> {
    const child = this.git.start(['archive', '--format=tar', tree])
    try {
      yield* child.stdout
      const { status, words } = await child.ended
      if (status !== 0) throw this.failure(words)
    } finally {
      kill(child)
    }
  }

  // --- limits -------------------------------------------------------------------------------------------------------

  /** Ends git where it takes more than it may. */
  private watch(): { heard: () => void; look: () => Promise<void>; end: () => void } {
    let heard = performance.now()
    let before = 0
    let isLooking = false
    const look = async () => {
      const [size, { bavail, bsize }] = await Promise.all([sizeOf(this.dir), statfs(this.home)])
      if (size !== before) heard = performance.now()
      before = size
      const { bytes, silence } = this.limits
      if (size > bytes) this.stop.abort(this.tooBig(`it takes more than ${mib(bytes)}, without its history`))
      else if (bavail * bsize < MIN_FREE) this.stop.abort(this.tooBig('the disk of this AP is nearly full'))
      else if (performance.now() - heard > silence)
        this.stop.abort(this.tooSlow(`nothing came for ${silence / 1000} s`))
    }
    const timer = setInterval(() => {
      if (isLooking) return
      isLooking = true
      // Git makes files and takes them away meanwhile.
      void look()
        .catch(() => {})
        .finally(() => {
          isLooking = false
        })
    }, LOOK_EVERY)
    return {
      heard: () => {
        heard = performance.now()
      },
      look,
      end: () => clearInterval(timer),
    }
  }

  // --- what went wrong ----------------------------------------------------------------------------------------------

  private refusal(code: string, why: string): MeshError {
    return new MeshError(code, `${shownUrl(this.source.repository)}: ${why}`)
  }

  private tooBig(why: string): MeshError {
    return this.refusal('git-too-big', `${why}; publish a smaller repository, or a folder`)
  }

  private tooSlow(why: string): MeshError {
    return this.refusal('git-too-slow', `${why}; try again, or clone it yourself and publish the folder`)
  }

  /** What git's last words mean for a person. They are the other side's as well, and so not to be printed as they are. */
  private failure(words: string): MeshError {
    const { ref, repository } = this.source
    const lines = words
      .split(/[\r\n]+/)
      .filter((line) => /^(fatal|error|remote|ssh):|denied|refused|failed/i.test(line))
    const secret = /^https?:\/\/([^@/]*)@/.exec(repository)?.[1] ?? ''
    const last = printable((lines.at(-1) ?? words.trim()).replace(/^(fatal|error): /, '')).slice(0, 300)
    const said = secret === '' ? last : last.replaceAll(secret, '…')
    const [code, why] = CAUSES.find(([, , pattern]) => pattern.test(words)) ?? ['git', 'git could not fetch it']
    if (code !== 'git-ref') return this.refusal(code, `${why} (${said})`)
    if (ref === undefined) return this.refusal(code, 'there is nothing in it yet, or no default branch: name one')
    if (isCommit(ref)) return this.refusal(code, `it gives no commit ${ref}: name a tag or a branch that has it`)
    const hint = 'a commit needs all of its 40 digits; "git ls-remote" shows what there is'
    return this.refusal(code, `it has no tag or branch ${ref}, and ${hint}`)
  }
}

/** Code, what a person can do, and how git says it. */
const CAUSES: [code: string, why: string, pattern: RegExp][] = [
  ['git-ref', '', /couldn't find remote ref|not our ref|unadvertised object/i],
  [
    'git-access',
    "the host is not known to ssh: connect to it once, as the user of this AP's node",
    /Host key verification failed/i,
  ],
  [
    'git-access',
    "it is not there, or not for everyone: over ssh the keys of the node's user count, over https what the URL says",
    /Authentication failed|could not read (Username|Password)|Permission denied|error: 40[13]/i,
  ],
  [
    'git-access',
    "its certificate is by nobody whom this AP trusts: name a file of those to trust as GIT_SSL_CAINFO, in the node's environment",
    // As git says it with GnuTLS, and with OpenSSL.
    /certificate verification failed|SSL certificate problem/i,
  ],
  [
    'git-repository',
    'there is no such repository: check the URL',
    /not found|not appear to be a git repository|not exported|no such repository/i,
  ],
  [
    'git-unreachable',
    'it cannot be reached from this AP: check the URL, and the network of this AP',
    /resolve host|look up|unable to connect|connect to|timed out|refused|unreachable|No route/i,
  ],
]

/** Bytes of all files in a folder. */
async function sizeOf(dir: string): Promise<number> {
  let size = 0
  for (const entry of await readdir(dir, { withFileTypes: true })) {
    const path = join(dir, entry.name)
    if (entry.isDirectory()) size += await sizeOf(path)
    // A file that is gone is renamed, or was of no account.
    else size += (await stat(path).catch(() => undefined))?.size ?? 0
  }
  return size
}

const mib = (bytes: number): string => `${Math.floor(bytes / 2 ** 20)} MiB`
