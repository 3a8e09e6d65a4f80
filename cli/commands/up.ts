// `dropmesh up`: runs this AP in the foreground.
import type { Server } from 'node:http'
import { join } from 'node:path'
import { Writable } from 'node:stream'
import { setFlagsFromString } from 'node:v8'
import type { Command } from 'commander'
import { pino } from 'pino'
import { parseLabels, type Settings } from '../../node/config.js'
import { MeshError } from '../../protocols/error.js'
import { Client } from '../client.js'
import { describeEvent } from '../describe.js'
import { founderKey } from '../founder.js'
import { dataDir, type NodeOptions, withExample } from '../options.js'
import { say } from '../output.js'

/** How long the node before may take to end, in milliseconds: far less than others wait for this one. */
const HANDOVER_PATIENCE = 15_000

interface UpOptions extends NodeOptions {
  name?: string
  join?: string
  found?: boolean
  ask?: string
  open?: boolean
  listen?: string[]
  label?: string[]
  dockerHost?: string
  lightBase?: string[]
  mdns: boolean
  prefetchMax?: string
  packagesMax?: string
  packageRate?: string
  registryPort?: string
  http?: string
  socketGroup?: string
  handover?: boolean
  log?: string
}

export function addUp(program: Command): void {
  const collect = (value: string, before: string[] | undefined) => [...(before ?? []), value]
  const command = program
    .command('up')
    .description(
      'run this AP in the foreground; where it is in no mesh it takes a ticket, or asks one on the LAN, or founds one',
    )
    .option('--data <dir>', 'where this AP keeps everything (or DROPMESH_DATA)')
    .option('--name <name>', 'what people call this AP (default: the host name)')
    .option('--join <ticket>', 'ticket of the mesh to join, from "dropmesh invite"')
    .option('--found', 'found a mesh at once, without looking for one on the LAN')
    .option('--ask <mesh>', 'which mesh on the LAN to ask, by its id, where there are several')
    .option('--open', 'where it founds one: let in any AP on the LAN that asks (for a lab)')
    .option('--listen <multiaddr>', 'address to listen on, repeatable (default: /ip4/0.0.0.0/tcp/4010)', collect)
    .option('--label <k=v>', 'label that placement looks at, repeatable', collect)
    .option('--docker-host <url>', 'container engine (default: DOCKER_HOST or unix:///var/run/docker.sock)')
    .option('--light-base <use=image>', "what ParaDrop's light chutes of a kind are built on, repeatable", collect)
    .option('--no-mdns', 'do not look for the mesh on the LAN')
    .option('--prefetch-max <size>', 'disk for images of chutes that this AP would run next (default: 2g; 0: none)')
    .option('--packages-max <size>', 'disk for packages, those included that are kept for other APs (default: 8g)')
    .option('--package-rate <rate>', 'what packages may take of the line, each way, such as 20mbit (default: no cap)')
    .option('--registry-port <port>', 'of the registry on 127.0.0.1 (default: 5010, or a free one)')
    .option('--http <host:port>', 'serve the API over TCP as well, to who has a token ("dropmesh token")')
    .option('--socket-group <group>', "who else may use this node's socket (default: nobody)")
    .option('--handover', 'take over from the node that runs on this data folder: an upgrade that moves nothing')
    .option('--log <form>', 'text or json (default: text on a terminal)')
    .action(up)
  withExample(command, 'dropmesh up --name kitchen --label site=home')
}

async function up(options: UpOptions): Promise<void> {
  // V8's young generation would grow to 32 MB, for garbage that an AP hardly makes. Measured: 97 MB resident, not 130.
  setFlagsFromString('--semi-space-growth-factor=1')
  // Loaded only here, so that the commands that just ask a node start fast.
  const [{ Ap }, { loadConfig }, { serveHttp, serveSocket }, { Tokens }, { SmallFile }] = await Promise.all([
    import('../../node/ap.js'),
    import('../../node/config.js'),
    import('../../node/api/server.js'),
    import('../../node/api/tokens.js'),
    import('../../node/store/files.js'),
  ])
  const { name, join: ticket, listen, label, dockerHost, lightBase, prefetchMax, http, socketGroup } = options
  const flags: Settings = { name, join: ticket, listen, http }
  if (label !== undefined) flags.label = parseLabels(label, '--label')
  if (dockerHost !== undefined) flags['docker-host'] = dockerHost
  if (lightBase !== undefined) flags['light-base'] = parseLabels(lightBase, '--light-base')
  if (socketGroup !== undefined) flags['socket-group'] = socketGroup
  if (prefetchMax !== undefined) flags['prefetch-max'] = prefetchMax
  const { packagesMax, packageRate, registryPort } = options
  Object.assign(flags, { 'packages-max': packagesMax, 'package-rate': packageRate, 'registry-port': registryPort })
  if (!options.mdns) flags['no-mdns'] = true
  const { found, ask, open } = options
  Object.assign(flags, { found, ask, open })
  const data = dataDir(options)
  const config = await loadConfig(data, flags, process.env)
  const form = options.log ?? (process.stderr.isTTY ? 'text' : 'json')
  if (form !== 'text' && form !== 'json') throw new MeshError('config', `--log "${form}": text or json`)
  const log = pino(
    { level: process.env.DROPMESH_LOG_LEVEL ?? 'info', base: null },
    form === 'json' ? process.stderr : asText(),
  )

  const ap = options.handover
    ? await takeOver(data, () => Ap.start(config, log, founderKey, say))
    : await Ap.start(config, log, founderKey, say)
  const servers: Server[] = []
  try {
    const tokens = await Tokens.open(new SmallFile(join(data, 'tokens')), () => ap.ledgerStore.clock.now())
    servers.push(await serveSocket(ap, join(data, 'dropmesh.sock'), tokens, config.socketGroup))
    if (config.http !== undefined) servers.push(await serveHttp(ap, config.http, tokens))
  } catch (error) {
    // A node that nobody can talk to is none.
    for (const server of servers) server.close()
    await ap.halt()
    throw error
  }

  // An access point goes on; what was forgotten is in the log.
  process.on('unhandledRejection', (error) =>
    log.error({ reason: (error as Error)?.stack ?? String(error) }, 'unhandled'),
  )

  const end = new Promise<void>((resolve) => {
    let signals = 0
    const onSignal = () => {
      signals++
      if (signals === 1) {
        say('stopping: chutes move to other APs first (again to stop at once)')
        resolve()
      } else process.exit(1)
    }
    process.on('SIGTERM', onSignal)
    process.on('SIGINT', onSignal)
  })
  const mustStop = await Promise.race([end.then(() => true), ap.steppedAside.then(() => false)])
  await (mustStop ? ap.stop() : ap.halt())
  for (const server of servers) server.close()
  process.exit(0)
}

/** Asks the node that runs on a data folder, if there is one, to make room, and starts the one that takes over. */
async function takeOver<T>(data: string, start: () => Promise<T>): Promise<T> {
  await new Client(data).post('/v1/handover', {}).catch((error) => {
    if (!(error instanceof MeshError) || error.code !== 'no-node') throw error
  })
  const mustEndBy = performance.now() + HANDOVER_PATIENCE
  for (;;) {
    try {
      return await start()
    } catch (error) {
      const isStillThere = error instanceof MeshError && error.code === 'data-in-use'
      if (!isStillThere || performance.now() > mustEndBy) throw error
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
  }
}

/** Log lines as a person reads them. */
function asText(): Writable {
  return new Writable({
    write(chunk: Buffer, _encoding, done) {
      for (const line of chunk.toString().split('\n')) {
        if (line === '') continue
        const { at, kind, level, time, msg, ...fields } = JSON.parse(line)
        if (kind !== undefined) say(describeEvent({ at, kind, ...fields }))
        else
          say(
            `${new Date(time).toISOString().slice(11, 23)}  ${level >= 50 ? 'error: ' : ''}${msg} ${JSON.stringify(fields)}`,
          )
      }
      done()
    },
  })
}
