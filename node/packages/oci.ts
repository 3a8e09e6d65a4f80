// What the OCI specifications say of names, digests and manifests. Pure: it knows no file and no socket, and what it reads may
// come from anyone.
//
// Sources: distribution-spec v1.1 (names, tags), image-spec v1.1 (manifests), Docker's image manifest version 2, schema 2.
import { z } from 'zod'
import { hex, sha256 } from '../../protocols/bytes.js'
import { describe } from '../../protocols/envelope.js'
import { MeshError } from '../../protocols/error.js'
import { parseOrNothing } from '../store/files.js'

/** Bytes of a manifest: what the distribution spec asks every registry to take, and no more. */
export const MAX_MANIFEST = 4 * 2 ** 20

/** Arrays and objects within each other. An image has four; a hundred thousand of them are an attack on whoever recurses. */
const MAX_NESTING = 64

/** Commas. An image has some four a layer, and engines take 127 layers; to look at two million items takes seconds. */
const MAX_COMMAS = 16_384

/** Clients allow 255 characters for host, port and name together; a longer one could never be pulled. */
const MAX_NAME = 239

const NAME = /^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$/
const TAG = /^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$/
const DIGEST = /^sha256:[0-9a-f]{64}$/

/** Whether a text is a digest as everything here writes it: `sha256:` and 64 lower-case hexadecimal digits. */
export const isDigest = (text: string): boolean => DIGEST.test(text)

export const isTag = (text: string): boolean => TAG.test(text)

export const isName = (text: string): boolean => text.length <= MAX_NAME && NAME.test(text)

export const digestOf = (bytes: Uint8Array): string => `sha256:${hex(sha256(bytes))}`

const OCI = 'application/vnd.oci.image.'
const DOCKER = 'application/vnd.docker.distribution.'
export const INDEX = `${OCI}index.v1+json`

const SHAPES: Record<string, 'image' | 'index'> = {
  [`${OCI}manifest.v1+json`]: 'image',
  [INDEX]: 'index',
  [`${DOCKER}manifest.v2+json`]: 'image',
  [`${DOCKER}manifest.list.v2+json`]: 'index',
}

const digest = z.string().regex(DIGEST, 'a digest is sha256: and 64 hexadecimal digits')

const descriptor = z.object({
  mediaType: z.string().min(1).max(255),
  digest,
  size: z.int().min(0),
  urls: z.array(z.string()).optional(),
})

const common = {
  schemaVersion: z.literal(2),
  artifactType: z.string().max(255).optional(),
  subject: descriptor.optional(),
  annotations: z.record(z.string(), z.string()).optional(),
}

// One document must not be an image to one reader and an index to another (CVE-2021-41190).
const image = z.object({
  ...common,
  config: descriptor,
  layers: z.array(descriptor),
  manifests: z.undefined('an image has no "manifests"').optional(),
})
const index = z.object({
  ...common,
  manifests: z.array(descriptor),
  config: z.undefined('an index has no "config"').optional(),
  layers: z.undefined('an index has no "layers"').optional(),
})

interface Layer {
  readonly mediaType: string
  readonly digest: string
}

/** What a registry has to know of a manifest. */
export interface Manifest {
  readonly mediaType: string
  /** What must be there for it to be of use: config and layers, without those that lie elsewhere by their own word. */
  readonly blobs: readonly string[]
  /** Of an image: the digest of its config, and its layers, lowest first. */
  readonly config: string | undefined
  readonly layers: readonly Layer[]
  /** Of an index: the manifests it chooses from, one for each architecture. */
  readonly children: readonly string[]
  /** The manifest that this one says something about. */
  readonly subject: string | undefined
  readonly artifactType: string | undefined
  readonly annotations: Readonly<Record<string, string>> | undefined
}

/**
 * Reads a manifest.
 * @param contentType what the client called it; undefined where there is only its own word
 * @throws MeshError `manifest-invalid`
 */
export function readManifest(bytes: Uint8Array, contentType?: string): Manifest {
  const value = isTooMuch(bytes) ? undefined : parseOrNothing<Record<string, unknown>>(bytes)
  if (value === undefined || typeof value !== 'object')
    throw invalid('it is no JSON document, or has parts without end')
  const { mediaType = contentType ?? inferred(value) } = value
  if (typeof mediaType !== 'string') throw invalid('its mediaType is no text')
  if (contentType !== undefined && mediaType !== contentType) {
    throw invalid('its mediaType is not the Content-Type it came with')
  }
  const shape = Object.hasOwn(SHAPES, mediaType) ? SHAPES[mediaType] : undefined
  if (shape === undefined) throw invalid('its type is none of an OCI or Docker (schema 2) image or index')
  const read = (shape === 'image' ? image : index).safeParse(value)
  if (!read.success) throw invalid(describe(read.error))
  const { subject, artifactType, annotations } = read.data
  const facts = { mediaType, subject: subject?.digest, artifactType: artifactType || undefined, annotations }
  if ('layers' in read.data && read.data.layers !== undefined) {
    const { config, layers } = read.data
    const here = layers.filter(({ urls = [] }) => urls.length === 0)
    return {
      ...facts,
      // As the spec says for referrers: an image that names no type of artifact is of its config's type.
      artifactType: facts.artifactType ?? config!.mediaType,
      blobs: [...new Set([config!, ...here].map((part) => part.digest))],
      config: config!.digest,
      layers: here.map(({ mediaType, digest }) => ({ mediaType, digest })),
      children: [],
    }
  }
  const children = [...new Set(read.data.manifests!.map((child) => child.digest))]
  return { ...facts, blobs: [], config: undefined, layers: [], children }
}

const invalid = (why: string): MeshError => new MeshError('manifest-invalid', `the manifest is wrong: ${why}`)

/** Docker's types have a mediaType always; OCI's need not. */
const inferred = (value: Record<string, unknown>): string => ('manifests' in value ? INDEX : `${OCI}manifest.v1+json`)

/** Whether JSON nests deeper, or has more parts, than anyone needs; told without reading it as JSON. */
function isTooMuch(bytes: Uint8Array): boolean {
  let depth = 0
  let commas = 0
  let inText = false
  for (let i = 0; i < bytes.length; i++) {
    const byte = bytes[i]
    if (inText) {
      if (byte === 0x5c) i++
      else if (byte === 0x22) inText = false
    } else if (byte === 0x22) inText = true
    else if (byte === 0x7b || byte === 0x5b) {
      if (++depth > MAX_NESTING) return true
    } else if (byte === 0x7d || byte === 0x5d) depth--
    else if (byte === 0x2c && ++commas > MAX_COMMAS) return true
  }
  return false
}
