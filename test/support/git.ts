// Git repositories for tests, and a real server of them on loopback.
import { execFileSync, spawn } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { atExit, freePort, scratch } from './scratch.js'
import { until } from './until.js'

/** What this machine's git says in a test must not depend on whose machine it is. */
const env = {
  PATH: process.env.PATH,
  HOME: '/nowhere',
  GIT_CONFIG_NOSYSTEM: '1',
  GIT_AUTHOR_NAME: 'test',
  GIT_AUTHOR_EMAIL: 'test@test',
  GIT_COMMITTER_NAME: 'test',
  GIT_COMMITTER_EMAIL: 'test@test',
}

/** A repository with a work tree. */
export class TestRepository {
  constructor(readonly dir: string) {
    mkdirSync(dir, { recursive: true })
    this.git('init', '--quiet', '--initial-branch=main')
  }

  git(...args: string[]): string {
    return this.gitWith('', ...args)
  }

  gitWith(input: string, ...args: string[]): string {
    return execFileSync('git', args, { cwd: this.dir, env, input, encoding: 'utf8', maxBuffer: 2 ** 26 }).trim()
  }

  write(files: Record<string, string | Uint8Array>): this {
    for (const [name, content] of Object.entries(files)) {
      mkdirSync(dirname(join(this.dir, name)), { recursive: true })
      writeFileSync(join(this.dir, name), content)
    }
    return this
  }

  /** @returns the commit */
  commit(message = 'next'): string {
    this.git('add', '--all')
    this.git('commit', '--quiet', '--allow-empty', '--message', message)
    return this.git('rev-parse', 'HEAD')
  }
}

/** Serves repositories by `git daemon` until the process ends. */
export class GitServer {
  readonly dir = scratch('git-server')

  private constructor(readonly port: number) {}

  static async start(): Promise<GitServer> {
    const server = new GitServer(await freePort())
    const where = ['--listen=127.0.0.1', `--port=${server.port}`, `--base-path=${server.dir}`]
    const args = ['daemon', '--reuseaddr', '--export-all', '--informative-errors', ...where, server.dir]
    const child = spawn('git', args, { env, stdio: 'ignore', detached: true })
    child.unref()
    atExit(() => process.kill(-child.pid!, 'SIGKILL'))
    server.repository('ready').commit()
    await until('git daemon to answer', () => execFileSync('git', ['ls-remote', server.url('ready')], { env }))
    return server
  }

  repository(name: string): TestRepository {
    return new TestRepository(join(this.dir, name))
  }

  url(name: string, rest = ''): string {
    return `git://127.0.0.1:${this.port}/${name}${rest}`
  }
}
