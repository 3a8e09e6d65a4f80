// The secrets of the chutes that this AP runs: opened when containers are made, and put where they read them, in memory and
// nowhere else. And this AP's part in giving them to others. What is decided, protocols/sharing.ts decides.
import { randomBytes } from 'node:crypto'
import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  statfsSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import type { Logger } from 'pino'
import { apId, concat, hex } from '../../protocols/bytes.js'
import type { ServiceSpec } from '../../protocols/deployment.js'
import type { Chute } from '../../protocols/desired.js'
import { MeshError, messageOf } from '../../protocols/error.js'
import type { Signer } from '../../protocols/keys.js'
import type { RecordOf } from '../../protocols/kinds.js'
import type { Outlook } from '../../protocols/outlook.js'
import { boxSecret, openSecret, SEAL_RANDOM, sealKeys } from '../../protocols/sealing.js'
import { sharesToMake } from '../../protocols/sharing.js'
import type { LedgerStore } from '../store/ledger-store.js'
import type { ContainerState, InstancePlan } from './engine.js'

/** File systems that may be in memory alone: the first one that is gets the folder `dropmesh`. */
const PLACES = ['/run', '/dev/shm']
/** TMPFS_MAGIC of linux/magic.h. */
const TMPFS = 0x01021994

/** How often this AP looks whether another one lacks something, where nothing tells it, in milliseconds. */
const EVERY = 2000

export interface SecretsOptions {
  readonly signer: Signer
  readonly seed: Uint8Array
  readonly ledgerStore: LedgerStore
  readonly outlook: () => Outlook
  /** Milliseconds, on a clock that never goes back. */
  readonly now: () => number
  readonly log: Pick<Logger, 'error'>
  readonly places?: readonly string[]
}

export class Secrets {
  private readonly own: Uint8Array
  /** AP id. */
  private readonly self: string
  private looked: { at: number; chutes: unknown; members: unknown } | undefined
  /** Those of all APs of this machine are in it; undefined where there is no memory to put them in. */
  private readonly folder: string | undefined

  constructor(private readonly options: SecretsOptions) {
    this.own = boxSecret(options.seed)
    this.self = apId(options.signer.publicKey)
    const place = (options.places ?? PLACES).find(isInMemory)
    this.folder = place && join(place, 'dropmesh')
  }

  /**
   * Puts the secrets of an instance where its containers find them, and leaves what is there already.
   * @returns a folder with one for each service that has any, or undefined where none has
   * @throws MeshError `no-secret`, `no-tmpfs`
   */
  place({ key, generation, chuteKey, spec }: InstancePlan): string | undefined {
    const services = spec.services.filter(({ secrets = [] }) => secrets.length > 0)
    if (services.length === 0) return undefined
    const chute = this.options.outlook().chutes.find((one) => hex(one.key) === chuteKey)
    const read = (name: string): Uint8Array => {
      const secret = chute?.secrets?.find((one) => one.name === name)
      if (chute === undefined || secret === undefined)
        throw new MeshError('no-secret', `secret ${name} belongs to a revision that is no more in force`)
      return this.open(chute, name, secret.record).value
    }
    const names = services.flatMap(({ secrets = [] }) => secrets.map(({ name }) => name))
    const values = new Map(names.map((name) => [name, read(name)]))
    const folder = join(this.home(), key, generation)
    for (const { name, secrets = [] } of services) {
      const at = join(folder, name)
      mkdirSync(at, { recursive: true, mode: 0o755 })
      for (const secret of secrets) putFile(at, secret, values.get(secret.name)!)
    }
    return folder
  }

  /** Removes what no container uses any more. Call it with all containers there are. */
  see(actual: ReadonlyMap<string, readonly ContainerState[]>, isBusy: (key: string) => boolean): void {
    if (this.folder === undefined || !isOwn(this.folder)) return
    const home = join(this.folder, this.self)
    for (const key of listed(home)) {
      if (isBusy(key)) continue
      const used = new Set(actual.get(key)?.map(({ generation }) => generation))
      if (used.size === 0) rmSync(join(home, key), { recursive: true, force: true })
      else
        for (const generation of listed(join(home, key)))
          if (!used.has(generation)) rmSync(join(home, key, generation), { recursive: true, force: true })
    }
  }

  /** Gives others the secrets that it is this AP's turn to give. Call it with each outlook. */
  follow(outlook: Outlook): void {
    const { signer, ledgerStore, now, log } = this.options
    const { chutes, membership } = outlook
    const isNews = this.looked?.chutes !== chutes || this.looked.members !== membership.members
    if (!isNews && now() - this.looked!.at < EVERY) return
    this.looked = { at: now(), chutes, members: membership.members }
    for (const { chute, to, secrets } of sharesToMake(outlook, this.self, ledgerStore.clock.now())) {
      const opened = secrets.flatMap((record) => {
        const key = this.tryOpen(chute, record)?.key
        return key === undefined ? [] : [{ record, key }]
      })
      const body = opened.length === 0 ? undefined : sealKeys(opened, to.key, randomBytes(SEAL_RANDOM))
      if (body === undefined) continue
      ledgerStore
        .sign(signer, 'share', concat(chute.key, to.key), body)
        .catch((error) => log.error({ reason: messageOf(error) }, 'a secret could not be given to another AP'))
    }
  }

  private open(chute: Chute, name: string, record: RecordOf<'secret'> | undefined) {
    const opened = record && this.tryOpen(chute, record)
    if (opened !== undefined) return opened
    throw new MeshError(
      'no-secret',
      record === undefined
        ? `waits for secret ${name}: its publisher sets it with "dropmesh secret set ${chute.id.name} ${name}"`
        : `waits for secret ${name}: no AP that has it has given it to this one yet`,
    )
  }

  private tryOpen(chute: Chute, record: RecordOf<'secret'>) {
    const { ledgerStore, signer } = this.options
    const { ledger, clock } = ledgerStore
    const shares = ledger.effectiveOn('share', concat(chute.key, signer.publicKey), clock.now())
    return openSecret(record, shares, signer.publicKey, this.own)
  }

  /** This AP's folder, which nobody but its user can enter. @throws MeshError `no-tmpfs` */
  private home(): string {
    const { folder } = this
    if (folder === undefined) {
      const places = (this.options.places ?? PLACES).join(' nor ')
      throw new MeshError(
        'no-tmpfs',
        `neither ${places} is a tmpfs on this AP, and a secret is never written to a disk: mount a tmpfs on /run`,
      )
    }
    mkdirSync(folder, { recursive: true, mode: 0o700 })
    if (isOwn(folder)) return join(folder, this.self)
    throw new MeshError('no-tmpfs', `${folder} is another user's, or open to others: remove it`)
  }
}

/** In a place where everyone may make folders, somebody may have made this one, or a link to another. */
function isOwn(folder: string): boolean {
  const found = lstatSync(folder, { throwIfNoEntry: false })
  return (found?.isDirectory() ?? false) && found!.uid === process.getuid?.() && (found!.mode & 0o077) === 0
}

function isInMemory(place: string): boolean {
  try {
    return statfsSync(place).type === TMPFS
  } catch {
    return false
  }
}

const listed = (folder: string): string[] => (existsSync(folder) ? readdirSync(folder) : [])

/** Whole or not at all, under its name. */
function putFile(
  folder: string,
  { file, uid = 0, gid = 0, mode }: NonNullable<ServiceSpec['secrets']>[number],
  value: Uint8Array,
): void {
  const path = join(folder, file)
  if (existsSync(path)) return
  const unfinished = `${folder}.${file}`
  rmSync(unfinished, { force: true })
  writeFileSync(unfinished, value, { mode: 0o600, flag: 'wx' })
  chownSync(unfinished, uid, gid)
  chmodSync(unfinished, mode)
  renameSync(unfinished, path)
}
