// The images in the local engine: what is there, and how one leaves it for the registry of this AP and comes in from it. An
// image is what its config is (decision 16); what one engine or another calls it stays in here.
//
// Docker has two ways of keeping images. In the legacy store an image's id is the digest of its config. In the containerd
// store it is the digest of a manifest, which says how the layers are compressed; nothing there can be asked for by config. So
// every image that the mesh holds has a name made of its config digest, too. The name also keeps it from `docker image prune`,
// which removes what has none.
import { statfs } from 'node:fs/promises'
import type Docker from 'dockerode'
import { hex, sha256 } from '../../protocols/bytes.js'
import { encode } from '../../protocols/codec.js'
import { type BuildSpec, type ImageSpec, imageFor, type ServiceSpec } from '../../protocols/deployment.js'
import { MeshError, messageOf } from '../../protocols/error.js'
import { ask, askState, type Progress, socketOf, unless, work } from '../chutes/docker-client.js'
import { EngineError } from '../chutes/engine.js'

const HELD = 'dropmesh/image'
/** What an AP fetched for later has this name as well, until it runs there. So nothing else need remember it. */
const SPARE = 'dropmesh/spare'
/** What this AP built itself of a chute's sources. */
const BUILT = 'dropmesh/built'

/** The name under which the mesh holds the image with this config digest. */
export const heldName = (config: Uint8Array): string => `${HELD}:${hex(config)}`

/** What tells one build from another, in hex: equal sources are built once. */
export const buildKey = (build: BuildSpec): string => hex(sha256(encode(build)))

/** The name of what this AP built of sources. */
export const builtName = (build: BuildSpec): string => `${BUILT}:${buildKey(build)}`

/** `os/architecture` as image configs say it. arm64 has one variant, which some write and some do not. */
export function platformOf(os: string, architecture: string, variant?: string): string {
  return [os, architecture, ...(variant && !(architecture === 'arm64' && variant === 'v8') ? [variant] : [])].join('/')
}

export class Images {
  constructor(private readonly docker: Docker) {}

  /**
   * What the engine has under a name; undefined for nothing. The size is in bytes, as the engine counts.
   * @throws MeshError `image-name` where this can be no name of an image
   */
  async find(name: string): Promise<{ id: string; platform: string; size: number } | undefined> {
    checkName(name)
    const found = (await this.look(name)) as (Docker.ImageInspectInfo & { Variant?: string }) | undefined
    if (found === undefined) return undefined
    const { Id: id, Os, Architecture, Variant, Size: size } = found
    return { id, platform: platformOf(Os, Architecture, Variant), size }
  }

  /** Whether the engine has exactly this image. */
  async has(image: ImageSpec): Promise<boolean> {
    return (await this.reference(image)) !== undefined
  }

  /** What this engine calls the image, as `docker run` would want it; undefined where it has none. */
  async reference(image: ImageSpec): Promise<string | undefined> {
    for (const name of [`sha256:${hex(image.config)}`, heldName(image.config)])
      if ((await this.look(name)) !== undefined) return name
    return undefined
  }

  /** The same of what a service runs from on an AP of a platform. */
  async referenceFor(service: ServiceSpec, platform: string): Promise<string | undefined> {
    if (service.build === undefined) {
      const image = imageFor(service, platform)
      return image && this.reference(image)
    }
    const name = builtName(service.build)
    return (await this.look(name)) && name
  }

  /** Names what was built of sources, so that it is not built again. */
  async holdBuilt(id: string, build: BuildSpec): Promise<void> {
    await this.name(id, builtName(build))
  }

  /**
   * Pushes an image to a registry of this machine, from which it can be pulled by the digest of its manifest. The engine sends
   * what the registry lacks. The image is called so then, too: see `unname`.
   * @param reference `127.0.0.1:PORT/NAME:TAG`
   * @param say gets the engine's words, a line each
   */
  async push(id: string, reference: string, say: (line: string) => void): Promise<void> {
    const { repo, tag } = partsOf(reference)
    await this.name(id, reference)
    // The engine wants credentials, if only empty ones.
    const options = { authconfig: { username: '', password: '' } }
    await work(
      `push ${reference}`,
      null,
      (_, abortSignal) => this.docker.getImage(repo).push({ ...options, tag, abortSignal }),
      layerProgress(say),
    ).catch(explained(reference))
  }

  /** Takes a name from an image. The engine removes it if it has no other one, and no container uses it. */
  async unname(name: string): Promise<void> {
    await this.drop(name)
  }

  /**
   * Has the engine pull an image from a registry of this machine, and holds it.
   * @param repository `127.0.0.1:PORT/NAME`
   * @param onLayer gets the first digits of the digest of each layer that the engine has already
   * @param end ends it
   * @throws MeshError `image-refused` where what came is not what the record says; EngineError
   */
  async pull(image: ImageSpec, repository: string, onLayer: (digest: string) => void, end: AbortSignal): Promise<void> {
    const reference = `${repository}@sha256:${hex(image.manifest!)}`
    await work(
      `pull image ${short(image)}`,
      null,
      (_, idle) =>
        this.docker.createImage({
          ...{ fromImage: reference, platform: image.platform },
          abortSignal: AbortSignal.any([idle, end]),
        }),
      ({ id, status }) => {
        if (id !== undefined && status === 'Already exists') onLayer(id)
      },
    ).catch(explained(reference))
    const { Id } = (await this.look(reference)) ?? {}
    if (Id === undefined) throw new EngineError('refused', `image ${short(image)} was pulled, and is not there`)
    await this.name(Id, heldName(image.config))
    await this.drop(reference)
    if (await this.has(image)) return
    await this.drop(heldName(image.config))
    throw new MeshError('image-refused', `the engine understood image ${short(image)} differently; it was removed`)
  }

  /** Gives an image of the engine the name by which the mesh holds it. */
  async hold(id: string, config: Uint8Array): Promise<void> {
    await this.name(id, heldName(config))
  }

  /** The names by which the mesh holds what the engine has. */
  async held(): Promise<string[]> {
    const images = await ask('list images', (abortSignal) =>
      this.docker.listImages({ filters: { reference: [HELD, BUILT] }, abortSignal }),
    )
    const names = images.flatMap(({ RepoTags }) => RepoTags ?? [])
    return names.filter((name) => name.startsWith(`${HELD}:`) || name.startsWith(`${BUILT}:`))
  }

  /**
   * Takes the name by which the mesh holds it from an image, which the engine removes if it has no other one.
   * @returns false where a container uses it
   */
  async release(name: string): Promise<boolean> {
    await this.drop(name)
    return (await this.look(name)) === undefined
  }

  /** Bytes free where the engine keeps its images; without end where it is not on this machine. */
  async free(): Promise<number> {
    if (socketOf(this.docker) === undefined) return Number.POSITIVE_INFINITY
    const { DockerRootDir } = await askState(this.docker)
    const { bavail, bsize } = await statfs(DockerRootDir)
    return bavail * bsize
  }

  /** Marks an image as fetched for later. */
  async spare(image: ImageSpec): Promise<void> {
    await this.name(heldName(image.config), `${SPARE}:${hex(image.config)}`)
  }

  /** Config digest, in hex, of each image that was fetched for later, and its size in bytes as the engine counts. */
  async spares(): Promise<Map<string, number>> {
    const images = await ask('list images', (abortSignal) =>
      this.docker.listImages({ filters: { reference: [SPARE] }, abortSignal }),
    )
    const named = images.flatMap(({ RepoTags, Size }) => (RepoTags ?? []).map((tag) => [tag, Size] as const))
    return new Map(
      named.filter(([tag]) => tag.startsWith(`${SPARE}:`)).map(([tag, size]) => [tag.slice(SPARE.length + 1), size]),
    )
  }

  /** Keeps for good what was fetched for later. */
  async keep(config: string): Promise<void> {
    await this.drop(`${SPARE}:${config}`)
  }

  /** Removes what was fetched for later, unless a container uses it or it has other names. */
  async removeSpare(config: string): Promise<void> {
    // The mark last: what is left of it by a crash is still known for what it is.
    await this.drop(`${HELD}:${config}`)
    await this.drop(`${SPARE}:${config}`)
  }

  private async name(image: string, name: string): Promise<void> {
    await ask(`name image ${image}`, () => this.docker.getImage(image).tag(partsOf(name)))
  }

  private async drop(name: string): Promise<void> {
    await unless(
      [404, 409],
      ask(`remove image ${name}`, () => this.docker.getImage(name).remove()),
    )
  }

  private async look(name: string): Promise<Docker.ImageInspectInfo | undefined> {
    return unless(
      [404],
      ask(`look at image ${name}`, () => this.docker.getImage(name).inspect()),
    )
  }
}

/** The repository and the tag of `NAME:TAG`. */
function partsOf(name: string): { repo: string; tag: string } {
  const at = name.lastIndexOf(':')
  return { repo: name.slice(0, at), tag: name.slice(at + 1) }
}

/** Says what to do where an engine does not find the registry of this AP. */
const explained =
  (reference: string) =>
  (error: unknown): never => {
    if (!/connection refused|no route to host|i\/o timeout/.test(messageOf(error))) throw error
    const address = reference.split('/')[0]
    const why = `the engine cannot reach the registry of this AP at ${address}: both have to be on one machine`
    throw new MeshError('registry-unreachable', why, { cause: error })
  }

const short = (image: ImageSpec): string => hex(image.config).slice(0, 12)

/** Names go into the path of a request, so that one of "../containers" would ask for something else. */
export function checkName(name: string): void {
  if (name.length > 512 || !/^[a-zA-Z0-9][\w./:@-]*$/.test(name) || name.includes('..')) {
    throw new MeshError('image-name', `${JSON.stringify(name.slice(0, 128))} cannot be the name of an image`)
  }
}

/** Milliseconds between two words on one layer. */
const SAY_EVERY = 2000

/** Bytes of a layer whose way is told. */
const WORTH_TELLING = 1e6

/** What is no news. */
const SILENT = new Set(['Preparing', 'Waiting'])

/** Turns what an engine says of layers that it sends or fetches into lines for people. */
function layerProgress(say: (line: string) => void): (message: Progress) => void {
  const said = new Map<string, { status: string; at: number }>()
  return ({ id, status, progressDetail }) => {
    if (id === undefined || status === undefined || SILENT.has(status)) return
    const { current, total } = progressDetail ?? {}
    if (status === 'Pushing' && (total ?? 0) < WORTH_TELLING) return
    const before = said.get(id)
    const now = performance.now()
    if (before?.status === status && (current === undefined || now - before.at < SAY_EVERY)) return
    said.set(id, { status, at: now })
    const done = current === undefined || total === undefined ? '' : ` ${megabytes(current)} of ${megabytes(total)} MB`
    say(`layer ${id}: ${status.toLowerCase()}${done}`)
  }
}

const megabytes = (bytes: number): string => (bytes / 1e6).toFixed(1)
