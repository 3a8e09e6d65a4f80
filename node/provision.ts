// What this AP has to have of packages, by the ledger and by who lives: it tells the rooms of packages/ which ones there are, what
// is needed here, and whom to ask for what is not.
import { join } from 'node:path'
import type Docker from 'dockerode'
import type { Logger } from 'pino'
import { apId, hex } from '../protocols/bytes.js'
import type { ChuteSpec } from '../protocols/deployment.js'
import type { Chute } from '../protocols/desired.js'
import { messageOf } from '../protocols/error.js'
import { isKind } from '../protocols/kinds.js'
import type { Outlook } from '../protocols/outlook.js'
import type { Placed } from '../protocols/placement.js'
import { inheritanceOf } from '../protocols/successors.js'
import { monotonic } from './clock.js'
import type { Config } from './config.js'
import type { Network } from './mesh/network.js'
import { IdleImages } from './packages/idle-images.js'
import { builtName, heldName, Images } from './packages/images.js'
import { Packages } from './packages/packages.js'
import { Publishing } from './packages/publishing.js'
import { type Needs, Spares } from './packages/spares.js'
import { Supply, type Wanted } from './packages/supply.js'
import type { LedgerStore } from './store/ledger-store.js'

/** Milliseconds between two looks for what nobody names any more. */
const SWEEP = 60_000

export interface ProvisionOptions {
  readonly self: string
  readonly config: Pick<Config, 'data' | 'prefetchMax' | 'packagesMax' | 'packageRate' | 'registryPort'>
  readonly docker: Docker
  readonly ledgerStore: LedgerStore
  readonly log: Logger
  readonly outlook: () => Outlook
  readonly platform: () => string | undefined
  readonly connected: () => string[]
  readonly isMember: (ap: string) => boolean
  /** Something that the beacon says has changed. */
  readonly onChange: () => void
  readonly onEvent: (kind: string, fields: Record<string, unknown>) => void
}

export class Provision {
  readonly supply: Supply
  private readonly images: Images
  private readonly spares: Spares
  private readonly idle: IdleImages
  private opening: Promise<void> | undefined
  private opened: { packages: Packages; publishing: Publishing } | undefined
  private sweptAt = monotonic()

  constructor(private readonly options: ProvisionOptions) {
    const { docker, platform, onEvent, onChange, config } = options
    this.images = new Images(docker)
    this.supply = new Supply({
      ...{ docker, images: this.images, platform, onEvent, onChange },
      packages: () => this.packages,
    })
    this.spares = new Spares({
      images: this.images,
      supply: this.supply,
      max: config.prefetchMax,
      needs: (spares) => this.needs(spares),
      free: () => this.images.free(),
      onChange: () => this.supply.look(this.ownImages()),
      onEvent,
      now: monotonic,
    })
    this.idle = new IdleImages({ images: this.images, onEvent, now: monotonic })
  }

  /** Opens what is on disk, and the registry. @throws as `Packages.open` does */
  open(network: Network): Promise<void> {
    this.opening = this.openWith(network)
    return this.opening
  }

  private async openWith(network: Network): Promise<void> {
    const { self, config, platform, isMember, onChange, onEvent, log, docker } = this.options
    const packages = await Packages.open({
      ...{ self, network, platform, isMember, onChange, onEvent, log, now: monotonic },
      dir: join(config.data, 'packages'),
      maxBytes: config.packagesMax,
      rate: config.packageRate,
      port: config.registryPort,
      holders: (refs) => this.holdersOf(new Set(refs)),
      turn: (digest) => this.supply.turn(digest),
      admit: (digest) => this.supply.admit(digest),
      onFailure: (digest, error) => this.supply.fail(digest, error),
    })
    this.opened = { packages, publishing: new Publishing(docker, this.images, packages, log) }
    this.follow(this.options.outlook())
    await packages.start()
  }

  get isOpen(): boolean {
    return this.opened !== undefined
  }

  async close(): Promise<void> {
    await this.opening?.catch(() => {})
    await this.opened?.packages.close()
  }

  /** Packages that this AP can hand on. */
  holdings(): readonly Uint8Array[] {
    return this.opened?.packages.holdings() ?? []
  }

  get packages(): Packages {
    if (this.opened === undefined) throw new Error('packages are not open')
    return this.opened.packages
  }

  get publishing(): Publishing {
    if (this.opened === undefined) throw new Error('packages are not open')
    return this.opened.publishing
  }

  /** Follows what chutes there are, and what of them is this AP's. */
  follow({ chutes, placed }: Outlook): void {
    const own = placed.filter(({ holder, chute }) => holder === this.options.self && chute.spec.package !== undefined)
    const needed = new Set(own.map(({ chute }) => hex(chute.spec.package!.digest)))
    for (const ref of this.spareRefs) needed.add(ref)
    this.opened?.packages.follow({ specs: chutes.map(({ spec }) => spec), needed })
  }

  private spareRefs: ReadonlySet<string> = new Set()

  /** Looks what is here, and fetches what may be needed later. */
  async look(isFree: boolean): Promise<void> {
    const { log } = this.options
    await Promise.all([this.supply.look(this.ownImages()), this.packages.look()])
    if (isFree) this.spares.look().catch((error) => log.debug({ reason: messageOf(error) }, 'images for later: failed'))
    if (monotonic() - this.sweptAt < SWEEP) return
    this.sweptAt = monotonic()
    this.idle.look(this.named()).catch((error) => log.debug({ reason: messageOf(error) }, 'idle images: failed'))
    const deployments = this.options.ledgerStore.ledger.records().filter((record) => isKind(record, 'deployment'))
    const recorded = new Set(
      deployments.flatMap(({ body }) => body.spec.package ?? []).map(({ digest }) => hex(digest)),
    )
    await this.packages.sweep((ref) => recorded.has(ref))
  }

  /** How much has come of what an instance runs from, in per cent; undefined where nothing is on its way. */
  progress(instance: string): number | undefined {
    const { placed } = this.options.outlook()
    const spec = placed.find((one) => one.instance === instance)?.chute.spec
    return spec && this.supply.progress(spec.services)
  }

  // --- what is needed --------------------------------------------------------------------------------------------

  private wantedOf({ services, package: ref }: ChuteSpec): Wanted[] {
    const platform = this.options.platform()
    // What is built is built when it is needed: nobody knows how long that takes a core.
    const runnable = services.filter(({ images }) => images.some((image) => image.platform === platform))
    return runnable.map((service) => ({ service, package: ref }))
  }

  /** What chutes run from, by the names by which the mesh holds that in an engine. */
  private named(): Set<string> {
    const services = this.options.outlook().chutes.flatMap(({ spec }) => spec.services)
    return new Set(
      services.flatMap(({ images, build }) => [
        ...images.map(({ config }) => heldName(config)),
        ...(build === undefined ? [] : [builtName(build)]),
      ]),
    )
  }

  private ownImages() {
    const platform = this.options.platform()
    const all = this.options.outlook().chutes.flatMap(({ spec }) => spec.services.flatMap(({ images }) => images))
    return all.filter((image) => image.platform === platform)
  }

  private needs(spares: ReadonlySet<string>): Needs {
    const { self, outlook, ledgerStore } = this.options
    const look = outlook()
    const held = new Set(this.supply.holdings().map(hex))
    const isOfInterest = ({ chute }: Placed) =>
      chute.spec.services.some(({ images }) =>
        images.some(({ config }) => !held.has(hex(config)) || spares.has(hex(config))),
      )
    const inherited = inheritanceOf(look, self, ledgerStore.clock.now(), isOfInterest)
    this.spareRefs = new Set(
      inherited.flatMap(({ chute }) => chute.spec.package ?? []).map(({ digest }) => hex(digest)),
    )
    const own = look.placed.filter(({ holder }) => holder === self)
    const wanted = (of: readonly Placed[]) => of.flatMap(({ chute }) => this.wantedOf(chute.spec))
    return {
      own: wanted(own),
      inherited: wanted(inherited),
      all: look.chutes.flatMap(({ spec }) => this.wantedOf(spec)),
    }
  }

  // --- who has it ------------------------------------------------------------------------------------------------

  /** APs that say that they have one of these packages; then those that should have it; then any that is connected. */
  private *holdersOf(refs: ReadonlySet<string>): Generator<string[]> {
    const { connected, outlook } = this.options
    const { candidates } = outlook()
    const near = connected()
    yield near.filter((ap) => candidates.get(ap)?.beacon?.packages.some((digest) => refs.has(hex(digest))))
    yield this.farHoldersOf(refs)
    yield near
  }

  // Who claimed an instance of a chute has fetched its package, and who published it has it.
  private farHoldersOf(refs: ReadonlySet<string>): string[] {
    const { self, ledgerStore, outlook } = this.options
    const { ledger, clock } = ledgerStore
    const { chutes, placed, candidates } = outlook()
    const hasIt = ({ spec }: Chute) => spec.package !== undefined && refs.has(hex(spec.package.digest))
    const claimed = placed.filter(({ chute }) => hasIt(chute)).flatMap(({ claim }) => claim ?? [])
    const origins = chutes.filter(hasIt).flatMap(({ key }) => ledger.effectiveOn('origin', key, clock.now()))
    const holders = new Set([...claimed, ...origins].map(({ signer }) => apId(signer)))
    return [...holders].filter((ap) => ap !== self && candidates.get(ap)?.state === 'alive')
  }
}
