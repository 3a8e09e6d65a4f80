// Git repositories for tests, and a real server of them on loopback.
import { execFileSync, spawn } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { createServer, type Server } from 'node:https'
import type { AddressInfo } from 'node:net'
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

  /**
   * Serves the same by https, with a certificate for 127.0.0.1 that no machine trusts. Needs openssl.
   * @returns the address, and the file of the certificate
   */
  async https(): Promise<{ url: string; certificate: string; server: Server }> {
    const home = scratch('git-https')
    const key = join(home, 'key.pem')
    const certificate = join(home, 'certificate.pem')
    const terms = ['-subj', '/CN=127.0.0.1', '-addext', 'subjectAltName=IP:127.0.0.1', '-days', '2']
    const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
    execFileSync('openssl', ['req', '-x509', ...curve, ...terms, '-keyout', key, '-out', certificate], {
      stdio: 'pipe',
    })
    const keys = { key: readFileSync(key), cert: readFileSync(certificate) }
    const server = createServer(keys, (request, response) => this.backend(request, response))
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    return { url: `https://127.0.0.1:${(server.address() as AddressInfo).port}`, certificate, server }
  }

  /** Git's own server side of HTTP, which is a CGI program. */
  private backend(request: IncomingMessage, response: ServerResponse): void {
    const { pathname, search } = new URL(request.url!, 'https://x')
    const { 'content-type': type, 'content-encoding': encoding, 'git-protocol': protocol } = request.headers
    const cgi = {
      GIT_PROJECT_ROOT: this.dir,
      GIT_HTTP_EXPORT_ALL: '1',
      PATH_INFO: pathname,
      QUERY_STRING: search.slice(1),
      REQUEST_METHOD: request.method,
      CONTENT_TYPE: type,
      HTTP_CONTENT_ENCODING: encoding,
      GIT_PROTOCOL: String(protocol ?? ''),
    }
    const child = spawn('git', ['http-backend'], { env: { ...env, ...cgi }, stdio: ['pipe', 'pipe', 'ignore'] })
    request.pipe(child.stdin.on('error', () => {}))
    const chunks: Buffer[] = []
    child.stdout.on('data', (chunk: Buffer) => chunks.push(chunk))
    child.on('close', () => {
      const answer = Buffer.concat(chunks)
      const end = answer.indexOf('\r\n\r\n')
      for (const line of answer.toString('latin1', 0, end).split('\r\n')) {
        const [name = '', value = ''] = line.split(': ')
        if (name === 'Status') response.statusCode = Number.parseInt(value, 10)
        else response.setHeader(name, value)
      }
      response.end(answer.subarray(end + 4))
    })
  }
}
