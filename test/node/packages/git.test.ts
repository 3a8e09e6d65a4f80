// Chutes from git, by the real git from a real server on loopback, from an honest one and from others.
import { randomBytes } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer as createHttpServer } from 'node:http'
import { type AddressInfo, connect, createServer, type Server } from 'node:net'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { type FetchedSource, type GitLimits, GitSources } from '../../../node/packages/git.js'
import { collect, entriesOf } from '../../../node/packages/tar.js'
import { MeshError } from '../../../protocols/error.js'
import { parseGitUrl } from '../../../protocols/git-url.js'
import { GitServer } from '../../support/git.js'
import { needTools } from '../../support/hosts.js'
import { scratch } from '../../support/scratch.js'
import { until } from '../../support/until.js'
import { failureOf, refusalOf } from '../realm.js'

needTools(['git'])
const server = await GitServer.start()
const dir = join(scratch('git'), 'sources')
const limits: GitLimits = { bytes: 8 * 2 ** 20, files: 500, deadline: 30_000, silence: 20_000 }
const sources = await GitSources.open(dir, limits)
const never = new AbortController().signal

interface Got extends Omit<FetchedSource, 'tar'> {
  said: string[]
  /** Content, or `-> target` of a link; with a `*` where it can be run. */
  entries: Record<string, string>
}

async function get(url: string, from = sources): Promise<Got> {
  const said: string[] = []
  let got: Got | undefined
  await from.fetch(
    parseGitUrl(url),
    (line) => said.push(line),
    never,
    async ({ tar, ...facts }) => {
      const entries: Record<string, string> = {}
      for await (const { header, body } of entriesOf(tar())) {
        const content = String(await collect(body))
        const isFile = header.type === 'file'
        if (header.type === 'directory') entries[header.name] = ''
        else
          entries[`${header.name}${isFile && header.mode! & 0o100 ? '*' : ''}`] = isFile
            ? content
            : `-> ${header.linkname}`
      }
      got = { ...facts, said, entries }
    },
  )
  assert.equal(readdirSync(dir), [], 'nothing of it stays')
  return got!
}

const chute = server.repository('chute.git')
chute.write({ 'compose.yaml': 'one', 'sub/a.txt': 'a', 'sub/deep/b.txt': 'b' })
const first = chute.commit()
chute.git('tag', 'v1')
chute.git('tag', '-a', 'v1-signed', '-m', 'a tag of its own')
chute.git('branch', 'feature/x')
chute.write({ 'compose.yaml': 'two' })
const second = chute.commit()

test('the default branch, a branch, either kind of tag and a commit are fetched; so is a folder of them', async () => {
  for (const [rest, commit, content] of [
    ['', second, 'two'],
    ['#main', second, 'two'],
    ['#v1', first, 'one'],
    ['#v1-signed', first, 'one'],
    ['#feature/x', first, 'one'],
    ['#refs/heads/feature/x', first, 'one'],
    [`#${first}`, first, 'one'],
  ] as const) {
    const got = await get(server.url('chute.git', rest))
    assert.equal([got.commit, got.files, got.bytes], [commit, 3, 5], rest)
    assert.is(got.entries['compose.yaml'], content)
    assert.is(got.entries['sub/deep/b.txt'], 'b')
  }
  assert.equal((await get(server.url('chute.git', '#v1:sub'))).entries, {
    'a.txt': 'a',
    'deep/': '',
    'deep/b.txt': 'b',
  })
  assert.equal((await get(server.url('chute.git', '#:sub/deep'))).entries, { 'b.txt': 'b' })
})

test('files come as they were committed, whatever attributes say; links stay links, and nothing of git is among them', async () => {
  const odd = server.repository('odd')
  odd.write({
    '.gitattributes': '* export-subst ident\nkept.txt export-ignore\nbig.bin filter=lfs\n',
    'kept.txt': '$Format:%H$ $Id$',
    'big.bin': 'version https://git-lfs.github.com/spec/v1\n',
    'run.sh': '#!/bin/sh\n',
  })
  symlinkSync('/etc/passwd', join(odd.dir, 'out'))
  symlinkSync('kept.txt', join(odd.dir, 'in'))
  odd.git('add', '--all')
  odd.git('update-index', '--chmod=+x', 'run.sh')
  odd.git('update-index', '--add', '--cacheinfo', `160000,${first},vendor/lib`)
  writeFileSync(join(odd.dir, '.git/hooks/post-checkout'), '#!/bin/sh\ntouch /tmp/hooked\n', { mode: 0o755 })
  odd.git('commit', '--quiet', '--message', 'odd')
  const { entries, said } = await get(server.url('odd'))
  assert.equal(Object.keys(entries).sort(), [
    '.gitattributes',
    'big.bin',
    'in',
    'kept.txt',
    'out',
    'run.sh*',
    'vendor/',
    'vendor/lib/',
  ])
  assert.is(entries['kept.txt'], '$Format:%H$ $Id$')
  assert.equal([entries.in, entries.out], ['-> kept.txt', '-> /etc/passwd'])
  assert.ok(said.some((line) => /vendor\/lib is a submodule, and stays empty/.test(line)))
  assert.ok(said.some((line) => /Git LFS/.test(line)))
})

test('what is not there is told for what it is', async () => {
  const refused = (rest: string, code: string, name = 'chute.git') => refusalOf(get(server.url(name, rest)), code)
  assert.match((await refused('#v9', 'git-ref')).message, 'it has no tag or branch v9')
  assert.match((await refused(`#${first.slice(0, 12)}`, 'git-ref')).message, 'a commit needs all of its 40 digits')
  assert.match((await refused(`#${'0'.repeat(40)}`, 'git-ref')).message, 'gives no commit 000000')
  assert.match((await refused('#v1:none', 'git-folder')).message, 'none is not there')
  assert.match((await refused('#v1:sub/a.txt', 'git-folder')).message, 'is a file or a link, and no folder')
  assert.match((await refused('', 'git-repository', 'none')).message, 'there is no such repository')
  server.repository('empty')
  assert.match((await refused('', 'git-ref', 'empty')).message, 'there is nothing in it yet')
  assert.match((await refusalOf(get('git://127.0.0.1:1/x'), 'git-unreachable')).message, 'cannot be reached')
  assert.match((await refusalOf(get('https://no-such-host.invalid/x'), 'git-unreachable')).message, 'cannot be reached')
  assert.equal(readdirSync(dir), [])
})

test('by https a server is believed whose certificate the node is told to trust, and no other', async () => {
  needTools(['openssl'])
  const { url, certificate, server: https } = await server.https()
  try {
    const { message } = await refusalOf(get(`${url}/chute.git`), 'git-access')
    assert.match(message, 'GIT_SSL_CAINFO')
    process.env.GIT_SSL_CAINFO = certificate
    const got = await get(`${url}/chute.git#v1:sub`)
    assert.equal([got.commit, got.entries['a.txt']], [first, 'a'])
    assert.is((await get(`${url}/chute.git#${first}`)).commit, first)
    assert.match((await refusalOf(get(`${url}/none`), 'git-repository')).message, 'there is no such repository')
  } finally {
    delete process.env.GIT_SSL_CAINFO
    https.close()
  }
})

test('a password in a URL is in no message', async () => {
  const { message } = await refusalOf(get('http://alice:s3cret@127.0.0.1:1/x'), 'git-unreachable')
  assert.not.match(message, 's3cret')
})

test('a machine without git says so', async () => {
  const { PATH } = process.env
  process.env.PATH = '/nowhere'
  try {
    const { message } = await refusalOf(get(server.url('chute.git')), 'no-git')
    assert.match(message, 'apt-get install git')
  } finally {
    process.env.PATH = PATH
  }
})

test('settings of the machine have no effect: no hook, no other address, no program of them', async () => {
  const home = scratch('home')
  const marker = join(home, 'ran')
  const program = join(home, 'program')
  writeFileSync(program, `#!/bin/sh\ntouch ${marker}\nexit 1\n`, { mode: 0o755 })
  writeFileSync(
    join(home, '.gitconfig'),
    `[url "ext::${program} %S"]\n\tinsteadOf = git://127.0.0.1\n[core]\n\tfsmonitor = ${program}\n[protocol]\n\tallow = always\n`,
  )
  const hostile = {
    HOME: home,
    GIT_SSH_COMMAND: program,
    GIT_PROXY_COMMAND: program,
    GIT_ASKPASS: program,
    GIT_TEMPLATE_DIR: home,
    GIT_EXEC_PATH: home,
    GIT_DIR: home,
  }
  const before = Object.fromEntries(Object.keys(hostile).map((name) => [name, process.env[name]]))
  Object.assign(process.env, hostile)
  try {
    assert.is((await get(server.url('chute.git', '#v1'))).commit, first)
    assert.instance(await failureOf(get('git@127.0.0.1:x')), MeshError)
  } finally {
    for (const [name, value] of Object.entries(before)) {
      if (value === undefined) delete process.env[name]
      else process.env[name] = value
    }
  }
  assert.not.ok(existsSync(marker))
})

// --- hostile servers --------------------------------------------------------------------------------------------------

const big = server.repository('big')
big.write({ 'random.bin': randomBytes(24 * 2 ** 20) })
big.commit()

test('a repository that takes more room than it may is refused, however fast it came, and gone', async () => {
  const { message } = await refusalOf(get(server.url('big')), 'git-too-big')
  assert.match(message, 'it takes more than 8 MiB')
  assert.equal(readdirSync(dir), [])
})

test('a repository that takes more room than it may is stopped on the way', async () => {
  // A server in the middle that stops in the middle: whoever waits for the end of it waits until it is silent for too long.
  const half = createServer((socket) => {
    const upstream = connect(server.port, '127.0.0.1')
    let passed = 0
    upstream.on('data', (chunk) => {
      passed += chunk.length
      socket.write(chunk)
      if (passed > 12 * 2 ** 20) upstream.pause()
    })
    socket.on('data', (chunk) => upstream.write(chunk))
    for (const one of [socket, upstream]) one.on('error', () => {})
    socket.on('close', () => upstream.destroy())
  })
  const port = await listening(half)
  const { message } = await refusalOf(get(`git://127.0.0.1:${port}/big`), 'git-too-big')
  assert.match(message, 'it takes more than 8 MiB')
  half.close()
})

test('files that are more, or larger, than the repository shows are refused before one is sent', async () => {
  const zeros = server.repository('zeros')
  zeros.write({ 'zeros.bin': Buffer.alloc(64 * 2 ** 20) })
  zeros.commit()
  assert.match((await refusalOf(get(server.url('zeros')), 'git-too-big')).message, 'than 8 MiB')

  const bomb = server.repository('bomb')
  let line = `100644 blob ${bomb.gitWith('x', 'hash-object', '-w', '--stdin')}`
  for (let depth = 0; depth < 6; depth++) {
    const entries = Array.from({ length: 50 }, (_, i) => `${line}\tf${i}\n`).join('')
    line = `040000 tree ${bomb.gitWith(entries, 'mktree')}`
  }
  bomb.git('update-ref', 'refs/heads/main', bomb.git('commit-tree', line.split(' ')[2]!, '-m', 'bomb'))
  const begun = performance.now()
  assert.match((await refusalOf(get(server.url('bomb')), 'git-too-big')).message, 'its files are more than 500')
  assert.ok(performance.now() - begun < 20_000)
})

test('a server that says nothing, and one that goes on for ever, are left', async () => {
  const open = new Set<{ destroy(): void }>()
  const silent = createServer((socket) => {
    open.add(socket)
    socket.on('error', () => {})
  })
  const port = await listening(silent)
  const impatient = await GitSources.open(dir, { ...limits, silence: 500 })
  assert.match((await refusalOf(get(`git://127.0.0.1:${port}/x`, impatient), 'git-too-slow')).message, 'nothing came')
  const hasty = await GitSources.open(dir, { ...limits, deadline: 500 })
  assert.match((await refusalOf(get(`git://127.0.0.1:${port}/x`, hasty), 'git-too-slow')).message, 'more than 0.5 s')
  for (const socket of open) socket.destroy()
  silent.close()
})

test('a server leads git to no file of this machine, and to no other protocol', async () => {
  const local = server.repository('local').commit()
  for (const location of [`file://${server.dir}/local`, server.url('local'), `ext::sh -c true`]) {
    const http = createHttpServer((_, response) => response.writeHead(302, { location }).end())
    const port = await listening(http)
    const url = `http://127.0.0.1:${port}/x#${local}`
    const failure = await get(url).then(
      () => undefined,
      (error: { code: string }) => error.code,
    )
    assert.match(failure ?? 'it was followed', /^git/)
    http.close()
  }
})

test('what is said cannot write on the terminal of who publishes', async () => {
  // The line of a server that git passes on, in its framing: length, channel 2, text.
  const packet = (text: string) => `${(text.length + 4).toString(16).padStart(4, '0')}${text}`
  const rude = createServer((socket) => {
    socket.on('error', () => {})
    socket.once('data', () => socket.end(packet('ERR \u001b[2Jyou are \u001b]0;mine\u0007')))
  })
  const port = await listening(rude)
  const { message } = await refusalOf(get(`git://127.0.0.1:${port}/x`), 'git')
  assert.not.match(message, /\p{Cc}/u)
  assert.match(message, 'you are')
  rude.close()
})

test('who goes away ends git, and what it had', async () => {
  const silent = createServer((socket) => socket.on('error', () => {}))
  const port = await listening(silent)
  const gone = new AbortController()
  const fetching = sources.fetch(
    parseGitUrl(`git://127.0.0.1:${port}/x`),
    () => {},
    gone.signal,
    async () => {},
  )
  const failed = fetching.then(
    () => 'it was fetched',
    (error) => error,
  )
  await until('git to be at work', () => readdirSync(dir).length === 1)
  const reason = new Error('the person left')
  gone.abort(reason)
  assert.is(await failed, reason)
  assert.equal(readdirSync(dir), [])
  silent.close()
})

test('more than two at once are refused, and what a crash left is gone at the next start', async () => {
  let release: () => void = () => {}
  const held = new Promise<void>((resolve) => {
    release = resolve
  })
  const both = [1, 2].map(() =>
    sources.fetch(
      parseGitUrl(server.url('chute.git')),
      () => {},
      never,
      () => held,
    ),
  )
  await until('both to be fetched', () => readdirSync(dir).length === 2)
  await refusalOf(get(server.url('chute.git')), 'busy')
  release()
  await Promise.all(both)
  assert.equal(readdirSync(dir), [])

  mkdirSync(join(dir, 'git-left/repository'), { recursive: true })
  writeFileSync(join(dir, 'git-left/repository/pack'), 'x')
  await GitSources.open(dir)
  assert.not.ok(existsSync(join(dir, 'git-left')))
})

test('the arguments of git hold no URL, for every user of the machine can see them', async () => {
  const silent = createServer((socket) => socket.on('error', () => {}))
  const port = await listening(silent)
  const gone = new AbortController()
  const url = `http://alice:s3cret@127.0.0.1:${port}/x`
  const fetching = sources.fetch(
    parseGitUrl(url),
    () => {},
    gone.signal,
    async () => {},
  )
  fetching.catch(() => {})
  const own = String(process.pid)
  const children = () =>
    readdirSync('/proc').flatMap((pid) => {
      try {
        if (readFileSync(`/proc/${pid}/stat`, 'utf8').split(' ')[3] !== own) return []
        return [readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ')]
      } catch {
        return []
      }
    })
  const found = await until('git to be at work', () => {
    const all = children().filter((line) => line.startsWith('git fetch'))
    return all.length > 0 && all
  })
  assert.not.match(found.join(), 's3cret')
  gone.abort(new Error('enough'))
  await fetching.catch(() => {})
  silent.close()
})

async function listening(of: Server): Promise<number> {
  await new Promise<void>((resolve) => of.listen(0, '127.0.0.1', resolve))
  return (of.address() as AddressInfo).port
}

test.run()
