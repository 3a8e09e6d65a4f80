// What packages are made of, from peers, publishers and clients of the registry: archives, layers, manifests.
import { Readable } from 'node:stream'
import { isDeepStrictEqual } from 'node:util'
import { gzipSync } from 'node:zlib'
import { pino } from 'pino'
import { importArchive } from '../../../node/packages/archive.js'
import type { BlobStore } from '../../../node/packages/blobs.js'
import { digestOf, isDigest, isName, isTag, readManifest } from '../../../node/packages/oci.js'
import { rangeOf } from '../../../node/packages/registry.js'
import { tarOf } from '../../../node/packages/tar.js'
import { Unpacked } from '../../../node/packages/unpacked.js'
import { concat, hex, utf8 } from '../../../protocols/bytes.js'
import * as limits from '../../../protocols/limits.js'
import { readDescriptor, writeDescriptor } from '../../../protocols/package.js'
import { Blobs } from '../blobs.js'
import { type Decoder, key, must, text } from './decoder.js'

const collected = async (chunks: AsyncIterable<Uint8Array>): Promise<Uint8Array> => {
  const all: Uint8Array[] = []
  for await (const chunk of chunks) all.push(chunk)
  return concat(...all)
}
const file = (name: string, content: Uint8Array) => ({ name, size: content.length, body: [content] })
export const archive = withChecksums(
  await collected(
    tarOf([file('etc/hosts', utf8('127.0.0.1 localhost')), { name: 'bin', folder: true }, file('bin/empty', utf8(''))]),
  ),
)

/** Right checksums for the headers of an archive, where a header can be: mutants get no further without. */
export function withChecksums(archive: Uint8Array): Uint8Array {
  const sound = Uint8Array.from(archive)
  for (let at = 0; at + 512 <= sound.length; at += 512) {
    if (text(sound.subarray(at + 257, at + 262)) !== 'ustar') continue
    sound.fill(0x20, at + 148, at + 156)
    const sum = sound.subarray(at, at + 512).reduce((sum, byte) => sum + byte, 0)
    sound.set(utf8(`${sum.toString(8).padStart(6, '0')}\0 `), at + 148)
  }
  return sound
}

/** A header of another type, of another size. */
export function headed(type: string, size: Uint8Array): Uint8Array {
  const odd = Uint8Array.from(archive)
  odd.set(utf8(type), 156)
  odd.set(size, 124)
  return odd
}

/** A layer that an engine is to unpack: how big it is then, a peer says. */
export const layer: Decoder = {
  name: 'layer',
  form: 'bytes',
  limit: 64 * 1024,
  seeds: [
    archive,
    gzipSync(archive),
    ...['x', 'g', 'L', 'K', 'S', '5', '2', '7'].map((type) => headed(type, utf8('00000000017 '))),
    headed('x', Uint8Array.of(0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe, 0)),
  ],
  reads: ['node/packages/unpacked.js'],
  quick: 100,
  decode: async (input) => {
    const bytes = input[0] === 0x1f ? input : withChecksums(input)
    const read = async (_: string, { start = 0, end = bytes.length } = {}) =>
      Readable.from([bytes.subarray(start, end)])
    await new Unpacked({ read, size: () => bytes.length }).sizeOf('', 2 ** 20)
  },
}

/** What a package is made of, as a publisher's node wrote it. */
export const packageDescriptor: Decoder = {
  name: 'package',
  form: 'cbor',
  limit: limits.MAX_CHUNK,
  seeds: [
    writeDescriptor([
      { digest: key(1), size: 5 },
      { digest: key(2), size: 2 ** 20, root: key(3) },
    ]),
  ],
  reads: ['protocols/package.js'],
  decode: (input) => {
    const written = writeDescriptor(readDescriptor(input).values())
    must(
      hex(writeDescriptor(readDescriptor(written).values())) === hex(written),
      'is read otherwise than it was written',
    )
  },
}

const layers = [archive, gzipSync(archive)]
const imageConfig = utf8(
  JSON.stringify({ architecture: 'amd64', os: 'linux', rootfs: { type: 'layers', diff_ids: [digestOf(archive)] } }),
)
const savedImage = [{ Config: 'c.json', RepoTags: ['alice/app:1'], Layers: ['l/layer.tar'] }]
const pointer = (mediaType: string, bytes: Uint8Array) => ({
  mediaType: `application/vnd.oci.image.${mediaType}`,
  digest: digestOf(bytes),
  size: bytes.length,
})
const manifestOf = (layer: object) =>
  utf8(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: 'application/vnd.oci.image.manifest.v1+json',
      config: pointer('config.v1+json', imageConfig),
      layers: [layer],
    }),
  )
const packedImage = manifestOf(pointer('layer.v1.tar+gzip', layers[1]!))
const unpackedImage = manifestOf(pointer('layer.v1.tar', layers[0]!))
const indexOf = (manifest: Uint8Array, more = {}, type = 'manifest') => ({
  schemaVersion: 2,
  manifests: [{ ...pointer(`${type}.v1+json`, manifest), ...more }],
})
export const archived = async (files: Record<string, Uint8Array | object>): Promise<Uint8Array> =>
  collected(
    tarOf(
      Object.entries(files).map(([name, content]) =>
        file(name, content instanceof Uint8Array ? content : utf8(JSON.stringify(content))),
      ),
    ),
  )
const pathOf = (bytes: Uint8Array) => `blobs/sha256/${digestOf(bytes).slice('sha256:'.length)}`
const layout = (index: object, ...blobs: Uint8Array[]) => ({
  'oci-layout': { imageLayoutVersion: '1.0.0' },
  'index.json': index,
  ...Object.fromEntries([imageConfig, ...blobs].map((bytes) => [pathOf(bytes), bytes])),
})
const savedElse = { 'c.json': imageConfig, 'manifest.json': savedImage }
const saved = { ...savedElse, 'l/layer.tar': archive }
const platforms = indexOf(packedImage, { platform: { os: 'linux', architecture: 'amd64' } })
const nested = utf8(JSON.stringify({ ...platforms, mediaType: 'application/vnd.oci.image.index.v1+json' }))

/** With a file that is a link now. */
export function linked(archive: Uint8Array, name: string, to: string): Uint8Array {
  const at = Buffer.from(archive).indexOf(name)
  const links = Uint8Array.from(archive)
  links.set(utf8(`2${to}`), at + 156)
  return withChecksums(links)
}

const log = pino({ level: 'silent' })

/** @returns the images */
export const importInto = (store: BlobStore, input: Uint8Array) =>
  importArchive(store, Readable.from([input[0] === 0x1f ? input : withChecksums(input)]), { log, limit: 2 ** 20 })

/** Images in a file, from who publishes them. */
export const images: Decoder = {
  name: 'archive',
  form: 'bytes',
  limit: 64 * 1024,
  seeds: [
    await archived(saved),
    await archived(layout(indexOf(packedImage), packedImage, layers[1]!)),
    gzipSync(await archived(saved)),
    // As `docker save` writes it where the engine keeps layers unpacked, and where it had the layer before.
    await archived({
      ...layout(indexOf(unpackedImage), unpackedImage, layers[0]!),
      'manifest.json': [{ Config: pathOf(imageConfig), RepoTags: null, Layers: [pathOf(layers[0]!)] }],
    }),
    linked(
      await archived({ 'l/layer.tar': utf8(''), 'k/layer.tar': layers[1]!, ...savedElse }),
      'l/layer.tar',
      '../k/layer.tar',
    ),
    await archived(layout(indexOf(nested, {}, 'index'), nested, packedImage, layers[1]!)),
    await archived(
      layout({ ...platforms, manifests: [0, 1].flatMap(() => platforms.manifests) }, packedImage, layers[1]!),
    ),
  ],
  reads: ['node/packages/archive.js', 'node/packages/archive-files.js'],
  quick: 50,
  decode: async (input) => {
    const blobs = new Blobs()
    await blobs.take(Readable.from([layers[1]!]))
    const before = blobs.list()
    const found = await importInto(blobs.store, input).catch((error) => {
      must(isDeepStrictEqual(blobs.list(), before), 'what was refused is left, or took what was there before')
      throw error
    })
    for (const { manifest } of found) must(blobs.has(manifest), 'an image whose manifest is not there')
  },
}

export const DIGEST = `sha256:${hex(key(1))}`
const part = (mediaType: string, more = {}) => ({ mediaType, digest: DIGEST, size: 5, ...more })
const OCI = 'application/vnd.oci.image.'
const ociImage = {
  schemaVersion: 2,
  mediaType: `${OCI}manifest.v1+json`,
  config: part(`${OCI}config.v1+json`),
  layers: [part(`${OCI}layer.v1.tar`), part('x', { urls: ['http://a'] })],
}

/** Manifests of images, from a client of the registry or from peers. */
export const ociManifest: Decoder = {
  name: 'oci-manifest',
  form: 'json',
  limit: 256 * 1024,
  seeds: [
    ociImage,
    { schemaVersion: 2, manifests: [part(ociImage.mediaType)], annotations: { a: 'b' } },
    { ...ociImage, mediaType: undefined, artifactType: 'a/b', subject: part(ociImage.mediaType) },
  ].map((manifest) => utf8(JSON.stringify(manifest))),
  reads: ['node/packages/oci.js'],
  decode: (input) => {
    const { mediaType, blobs, children } = readManifest(input)
    must([...blobs, ...children].every(isDigest), 'a digest that is none')
    must(readManifest(input, mediaType).mediaType === mediaType, 'is read otherwise by its own type')
  },
}

/** The words of a request to the registry, a line each: name, tag, digest, range. */
export const ociWords: Decoder = {
  name: 'oci-words',
  form: 'text',
  limit: 64 * 1024,
  seeds: [utf8(`library/a__b.c--d\nv1.0-x\n${DIGEST}\nbytes=5-9`), utf8('a\n_\n\nbytes=-3'), utf8('a\n\n\nbytes=7-')],
  reads: ['node/packages/oci.js', 'node/packages/registry.js'],
  decode: (input) => {
    const [name = '', tag = '', digest = '', range] = text(input).split('\n')
    // They become keys of the catalogue, where "!" parts one from the next.
    for (const is of [isName(name) && name, isTag(tag) && tag, isDigest(digest) && digest])
      must(is === false || !/[!"\s]/.test(is), 'a word that is no part of a key')
    for (const size of [0, 10, 2 ** 40]) {
      const asked = rangeOf(range, size)
      if (asked === undefined || asked === 'none') continue
      must(0 <= asked.start && asked.start < asked.end && asked.end <= size, 'a range that is not there')
    }
  },
}
