// Builds, by a real Docker.
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { chmod, mkdir, mkdtemp, rm, symlink, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { connectDocker } from '../../../node/chutes/docker-client.js'
import { buildImage, measureContext, packContext } from '../../../node/packages/build.js'
import { collect, entriesOf } from '../../../node/packages/tar.js'
import { MeshError } from '../../../protocols/error.js'
import { BUSYBOX, ensureBusybox } from '../../support/busybox.js'

const docker = connectDocker()
const label = `dropmesh-test-${randomBytes(6).toString('hex')}`
const folders: string[] = []

const test = suite('build')

test.before(async () => {
  await ensureBusybox(docker)
})

test.after(async () => {
  for (const folder of folders) await rm(folder, { recursive: true, force: true })
  for (const { Id } of await docker.listImages({ filters: { label: [label] } })) {
    await docker
      .getImage(Id)
      .remove({ force: true })
      .catch(() => {})
  }
})

async function folderWith(files: Record<string, string>): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'dropmesh-test-'))
  folders.push(folder)
  for (const [name, text] of Object.entries(files)) {
    await mkdir(dirname(join(folder, name)), { recursive: true })
    await writeFile(join(folder, name), text)
  }
  return folder
}

const options = { dockerfile: 'Dockerfile', args: {}, onBaseImage: false }

async function build(dockerfile: string, more: Partial<Parameters<typeof buildImage>[2]> = {}, output: string[] = []) {
  const folder = await folderWith({ Dockerfile: dockerfile, 'a/file': 'from the context\n' })
  return buildImage(docker, await packContext(folder), { ...options, ...more }, (line) => output.push(line))
}

async function run(image: string): Promise<string> {
  const container = await docker.createContainer({ Image: image, Labels: { [label]: '' } })
  try {
    await container.start()
    await container.wait()
    return String(await container.logs({ stdout: true, stderr: true }))
  } finally {
    await container.remove({ force: true })
  }
}

async function rejection(promise: Promise<unknown>): Promise<MeshError> {
  const error = await promise.then(
    () => undefined,
    (thrown) => thrown,
  )
  assert.instance(error, MeshError, `expected a MeshError, got ${error}`)
  return error as MeshError
}

test('a build gives the image that the Dockerfile describes, and tells its output line by line', async () => {
  const output: string[] = []
  const id = await build(
    [
      `FROM ${BUSYBOX}`,
      `LABEL ${label}=`,
      'ARG WHO',
      'ENV WHO=$WHO',
      'COPY a/file /file',
      'RUN echo built for $WHO; echo next',
      'CMD cat /file; echo hello $WHO',
    ].join('\n'),
    { args: { WHO: 'me' } },
    output,
  )
  assert.ok(output.includes('built for me'))
  assert.ok(output.includes('next'))
  assert.ok(output.some((line) => /^Step 1\/7/.test(line)))
  const text = await run(id)
  assert.match(text, 'from the context')
  assert.match(text, 'hello me')
})

test('the steps of a build have no network', async () => {
  const output: string[] = []
  await build(`FROM ${BUSYBOX}\nLABEL ${label}=\nRUN echo "net: $(ls /sys/class/net)"\n`, {}, output)
  assert.ok(output.includes('net: lo'), output.join('\n'))
})

test('a build that fails says why', async () => {
  const step = await rejection(build(`FROM ${BUSYBOX}\nRUN exit 3\n`))
  assert.is(step.code, 'build-failed')
  assert.match(step.message, /exit 3.* non-zero code: 3/)
  const syntax = await rejection(build(`FROM ${BUSYBOX}\nFLY away\n`))
  assert.is(syntax.code, 'build-failed')
  assert.match(syntax.message, /unknown instruction: FLY/)
  const missing = await rejection(build(`FROM ${BUSYBOX}\nCOPY nothing /\n`))
  assert.is(missing.code, 'build-failed')
  assert.match(missing.message, /nothing/)
})

test('a build of a context that breaks off fails with what broke it', async () => {
  const broken = new Error('the client went away')
  const context = (async function* (): AsyncGenerator<Uint8Array> {
    yield new Uint8Array(512)
    throw broken
  })()
  assert.is(await buildImage(docker, context, options).catch((error) => error), broken)
})

test('a build without an engine is no-engine', async () => {
  const folder = await folderWith({ Dockerfile: `FROM ${BUSYBOX}` })
  const none = connectDocker('unix:///nonexistent/docker.sock')
  assert.is((await rejection(buildImage(none, await packContext(folder), options))).code, 'no-engine')
})

test('a build on dropmesh/node finds it', async () => {
  const id = await build(
    `FROM dropmesh/node\nLABEL ${label}=\nCOPY a/file .\nCMD ["node","-e","console.log(fs.readFileSync('file','utf8'))"]`,
    { onBaseImage: true },
  )
  assert.match(await run(id), 'from the context')
})

test('a Dockerfile that is no file of the folder is built', async () => {
  const folder = await folderWith({ 'a/file': 'from the context\n' })
  const text = `FROM ${BUSYBOX}\nLABEL ${label}=\nCOPY a/file /file\nCMD cat /file\n`
  const context = await packContext(folder, '.inline', text)
  assert.match(await run(await buildImage(docker, context, { ...options, dockerfile: '.inline' })), 'from the context')
})

async function namesOf(folder: string, dockerfile?: string, inline?: string): Promise<string[]> {
  const names: string[] = []
  for await (const { header, body } of entriesOf(await packContext(folder, dockerfile, inline))) {
    names.push(header.name.replace(/\/$/, ''))
    await collect(body)
  }
  return names.sort()
}

test('a context leaves out what .dockerignore names, with its exceptions, and never the Dockerfile', async () => {
  const files = { Dockerfile: '', 'keep.js': '', 'x.log': '', 'sub/y.log': '', 'deps/big': '', 'deps/own/keep': '' }
  const ignoring = (text: string) => folderWith({ ...files, '.dockerignore': text })
  assert.equal(await namesOf(await folderWith(files)), [
    'Dockerfile',
    'deps',
    'deps/big',
    'deps/own',
    'deps/own/keep',
    'keep.js',
    'sub',
    'sub/y.log',
    'x.log',
  ])
  assert.equal(await namesOf(await ignoring('# logs\n**/*.log\ndeps\nDockerfile\n')), [
    '.dockerignore',
    'Dockerfile',
    'keep.js',
    'sub',
  ])
  assert.equal(await namesOf(await ignoring('*\n!deps/own\n')), ['Dockerfile', 'deps/own', 'deps/own/keep'])
})

test('a Dockerfile that is no file of the folder is first in the context, in place of one that has its name', async () => {
  const folder = await folderWith({ 'a/b': '', 'my.Dockerfile': 'of the folder' })
  assert.equal(await namesOf(folder, 'my.Dockerfile', 'FROM x'), ['a', 'a/b', 'my.Dockerfile'])
  const texts: [string, string][] = []
  for await (const { header, body } of entriesOf(await packContext(folder, 'my.Dockerfile', 'FROM x')))
    texts.push([header.name, String(await collect(body))])
  assert.equal(texts[0], ['my.Dockerfile', 'FROM x'])
  assert.equal(await namesOf(await folderWith({}), '.inline', 'FROM x'), ['.inline'])
})

test('a context is measured as it is packed: files, what their names lead to not among them, and bytes', async () => {
  const folder = await folderWith({
    ...{ Dockerfile: 'FROM x', 'a/b': '12345', left: 'x'.repeat(100) },
    '.dockerignore': 'left\nDockerfile\n',
  })
  await symlink('left', join(folder, 'link'))
  for (const inline of [undefined, 'FROM somewhere']) {
    const packed = { files: 0, bytes: 0 }
    for await (const { header, body } of entriesOf(await packContext(folder, 'Dockerfile', inline))) {
      if (header.type !== 'directory') packed.files++
      packed.bytes += (await collect(body)).length
    }
    assert.equal(await measureContext(folder, 'Dockerfile', inline), packed)
    assert.is(packed.files, 4)
  }
})

test('a context is the same bytes whenever and by whomever the files were written', async () => {
  const files = { Dockerfile: 'FROM x', 'b/c': 'c', a: 'a' }
  const [one, two] = [await folderWith(files), await folderWith(files)]
  await utimes(join(one, 'a'), 1, 1)
  await utimes(join(one, 'b'), 2, 2)
  assert.ok((await collect(await packContext(one))).equals(await collect(await packContext(two))))
})

test('a context keeps links as links and modes as they are, and leaves out what is no file', async () => {
  const folder = await folderWith({ 'build/Dockerfile': '', 'run.sh': '', secret: '' })
  await chmod(join(folder, 'run.sh'), 0o755)
  await symlink('/etc/passwd', join(folder, 'link'))
  execFileSync('/bin/busybox', ['mkfifo', join(folder, 'pipe')])
  const headers = new Map<string, { type: string; linkname: string; mode: number; uid: number }>()
  for await (const { header, body } of entriesOf(await packContext(folder, './build/Dockerfile'))) {
    headers.set(header.name, header)
    await collect(body)
  }
  assert.is(headers.get('link')?.type, 'symlink')
  assert.is(headers.get('link')?.linkname, '/etc/passwd')
  assert.is(headers.get('run.sh')?.mode, 0o755)
  assert.ok(headers.has('build/Dockerfile'))
  assert.not.ok(headers.has('pipe'))
  assert.ok([...headers.values()].every(({ uid }) => uid === 0))
})

test('a context without its folder or its Dockerfile is refused by name', async () => {
  const folder = await folderWith({ 'other/file': '' })
  for (const [dir, dockerfile, named] of [
    [join(folder, 'nowhere'), undefined, join(folder, 'nowhere')],
    [folder, undefined, join(folder, 'Dockerfile')],
    [folder, 'other', join(folder, 'other')],
    [join(folder, 'other'), '../Dockerfile', join(folder, 'Dockerfile')],
    [join(folder, 'other'), '/etc/passwd', '/etc/passwd'],
  ] as const) {
    const error = await rejection(packContext(dir, dockerfile))
    assert.is(error.code, 'build-context')
    assert.match(error.message, named)
  }
})

test.run()
