// Push and pull of one image through an AP's registry and through Debian's docker-registry, by skopeo and by docker, in turns.
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type Docker from 'dockerode'
import { connectDocker, work } from '../../node/chutes/docker-client.js'
import { collect, tarOf } from '../../node/packages/tar.js'
import { RegistryProcess } from '../node/packages/client.js'
import { needTools } from '../support/hosts.js'
import { freePort, scratch } from '../support/scratch.js'
import { until } from '../support/until.js'
import { median, repeat, report, summary } from './measure.js'

const RUNS = 7
const LAYERS = 4
/** Bytes of one layer. */
const LAYER = 25 * 2 ** 20

const execute = promisify(execFile)

interface Contender {
  readonly port: number
  /** Forgets all that was pushed, and starts anew. */
  renew(): Promise<void>
  stop(): Promise<void>
}

export async function registry(): Promise<void> {
  needTools(['skopeo', 'docker-registry'])
  const docker = connectDocker()
  const folder = scratch('bench-registry')
  const archive = join(folder, 'image.tar')
  const id = await makeImage(docker, archive)
  const contenders = { ours: await startOurs(join(folder, 'ours')), debian: await startDebian(join(folder, 'debian')) }
  const kinds = ['skopeo push', 'skopeo pull', 'docker push', 'docker pull'] as const
  const times = new Map(kinds.map((kind) => [kind, { ours: [] as number[], debian: [] as number[] }]))
  try {
    await repeat(RUNS, async (run) => {
      // In turns, and each first every other time, so that both meet the same machine and its caches.
      const names = (run % 2 === 0 ? ['ours', 'debian'] : ['debian', 'ours']) as (keyof typeof contenders)[]
      for (const name of names) {
        const contender = contenders[name]
        const note = async (kind: (typeof kinds)[number], what: () => Promise<unknown>) => {
          const before = performance.now()
          await what()
          times.get(kind)![name].push((performance.now() - before) / 1000)
        }
        await contender.renew()
        const at = `docker://127.0.0.1:${contender.port}/bench/image:v1`
        const pulled = join(folder, 'pulled')
        await note('skopeo push', () =>
          execute('skopeo', ['copy', '--dest-tls-verify=false', `docker-archive:${archive}`, at]),
        )
        await note('skopeo pull', () => execute('skopeo', ['copy', '--src-tls-verify=false', at, `dir:${pulled}`]))
        rmSync(pulled, { recursive: true })
        await contender.renew()
        await load(docker, archive)
        const reference = `127.0.0.1:${contender.port}/bench/image`
        await docker.getImage(id).tag({ repo: reference, tag: 'v1' })
        const image = docker.getImage(`${reference}:v1`)
        await note('docker push', () =>
          work('push', null, () => image.push({ authconfig: { username: '', password: '', serveraddress: '' } })),
        )
        await docker.getImage(id).remove({ force: true })
        await note('docker pull', () => work('pull', null, () => docker.pull(`${reference}:v1`)))
        await docker.getImage(id).remove({ force: true })
      }
      return 0
    })
  } finally {
    for (const contender of Object.values(contenders)) await contender.stop()
  }
  report(
    `${LAYERS} layers of ${LAYER / 2 ** 20} MiB that do not compress, through the registry of an AP and Debian's docker-registry`,
    [...times].flatMap(([kind, { ours, debian }]) => [
      `${kind}   dropmesh         ${summary(ours, 's')}`,
      `${kind}   docker-registry  ${summary(debian, 's')}`,
      `${kind}   ratio            ${(median(ours) / median(debian)).toFixed(2)}`,
    ]),
  )
}

/** Writes an image of random layers as `docker save` would. @returns its id */
async function makeImage(docker: Docker, path: string): Promise<string> {
  const layers: Buffer[] = []
  for (let i = 0; i < LAYERS; i++) {
    const bytes = randomBytes(LAYER)
    layers.push(await collect(tarOf([{ name: `file${i}`, size: bytes.length, body: [bytes] }])))
  }
  const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')
  const { Arch } = await docker.version()
  const config = Buffer.from(
    JSON.stringify({
      os: 'linux',
      architecture: Arch,
      config: { Cmd: ['none'] },
      rootfs: { type: 'layers', diff_ids: layers.map((layer) => `sha256:${sha256(layer)}`) },
    }),
  )
  const names = layers.map((_, i) => `layer${i}.tar`)
  const manifest = Buffer.from(JSON.stringify([{ Config: 'config.json', RepoTags: null, Layers: names }]))
  const file = (name: string, bytes: Buffer) => ({ name, size: bytes.length, body: [bytes] })
  const entries = [
    file('config.json', config),
    ...layers.map((layer, i) => file(names[i]!, layer)),
    file('manifest.json', manifest),
  ]
  writeFileSync(path, await collect(tarOf(entries)))
  return `sha256:${sha256(config)}`
}

async function load(docker: Docker, archive: string): Promise<void> {
  await work('load', null, () => docker.loadImage(archive))
}

async function startOurs(dir: string): Promise<Contender> {
  let own = await RegistryProcess.start(dir)
  return {
    get port() {
      return own.port
    },
    async renew() {
      await own.kill()
      rmSync(dir, { recursive: true })
      own = await RegistryProcess.start(dir)
    },
    stop: () => own.kill(),
  }
}

async function startDebian(dir: string): Promise<Contender> {
  const port = await freePort()
  const config = join(dir, 'config.yml')
  let child: ChildProcess | undefined
  const stop = async () => {
    const ended = new Promise((resolve) => child?.once('close', resolve))
    child?.kill('SIGKILL')
    if (child !== undefined) await ended
    child = undefined
  }
  const renew = async () => {
    await stop()
    rmSync(dir, { recursive: true, force: true })
    mkdirSync(join(dir, 'data'), { recursive: true })
    const storage = { filesystem: { rootdirectory: join(dir, 'data') }, cache: { blobdescriptor: 'inmemory' } }
    const settings = {
      version: 0.1,
      log: { level: 'error', accesslog: { disabled: true } },
      storage,
      http: { addr: `127.0.0.1:${port}` },
    }
    writeFileSync(config, JSON.stringify(settings)) // JSON is YAML
    child = spawn('docker-registry', ['serve', config], { stdio: 'ignore' })
    await until('docker-registry to answer', async () => (await fetch(`http://127.0.0.1:${port}/v2/`)).ok)
  }
  await renew()
  return { port, renew, stop }
}
