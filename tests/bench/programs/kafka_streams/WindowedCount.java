import com.fasterxml.jackson.databind.ObjectMapper;
import com.sun.management.OperatingSystemMXBean;
import java.lang.management.ManagementFactory;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.security.MessageDigest;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.Serializer;
import org.apache.kafka.common.utils.AppInfoParser;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StoreQueryParameters;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.kstream.Windowed;
import org.apache.kafka.streams.processor.TimestampExtractor;
import org.apache.kafka.streams.state.QueryableStoreTypes;
import org.apache.kafka.streams.state.Stores;

/**
 * Kafka Streams: a tumbling count by key, one thread. Arguments: "memory" or "rocksdb", then the guarantee.
 *
 * <p>It counts the topic twice, under two application ids: the first time is for the JIT compiler, the second
 * is measured. The JVM's other threads (collector, compiler) count too.
 */
public final class WindowedCount {
    private static final Duration WINDOW = Duration.ofSeconds(10);
    private static final Duration RETENTION = Duration.ofDays(1);
    private static final String STORE = "counts";
    private static final int COMMIT_INTERVAL_MS = 500;

    public record Data(String user, double amount) {}

    public record Event(String id, String type, String timestamp, Data data) {}

    /** A moment: CPU and wall time in nanoseconds. */
    private record Moment(long cpu, long wall) {
        static Moment now() {
            var system = (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
            return new Moment(system.getProcessCpuTime(), System.nanoTime());
        }
    }

    /** Event time, and the only place that sees each record: the first and the last are noted here. */
    private static final class EventTime implements TimestampExtractor {
        private final long events;
        private long seen = 0;
        private volatile Moment first;
        private volatile Moment last;

        EventTime(long events) {
            this.events = events;
        }

        @Override
        public long extract(ConsumerRecord<Object, Object> record, long partitionTime) {
            if (first == null) {
                first = Moment.now();
            }
            if (++seen == events) {
                last = Moment.now();
            }
            return Instant.parse(((Event) record.value()).timestamp()).toEpochMilli();
        }
    }

    private final Map<String, String> job = System.getenv();
    private final long events = Long.parseLong(job.get("BENCH_EVENTS"));
    private final boolean inMemory;
    private final String guarantee;

    private WindowedCount(String store, String guarantee) {
        this.inMemory = store.equals("memory");
        this.guarantee = guarantee;
    }

    public static void main(String[] arguments) throws Exception {
        var program = new WindowedCount(arguments[0], arguments[1]);
        program.count(program.job.get("BENCH_GROUP") + "-warmup", false);
        System.gc();
        program.count(program.job.get("BENCH_GROUP"), true);
    }

    private void count(String application, boolean measured) throws Exception {
        var eventTime = new EventTime(events);
        try (var streams = new KafkaStreams(topology(eventTime), settings(application));
                var admin = Admin.create(Map.<String, Object>of("bootstrap.servers", job.get("BENCH_BROKER")))) {
            streams.start();
            while (eventTime.last == null) {
                Thread.sleep(20);
            }
            while (committed(admin, application) < events) {
                Thread.sleep(20);
            }
            Moment done = Moment.now();
            if (measured) {
                report(eventTime, done, rows(streams));
            }
        }
    }

    private Topology topology(EventTime eventTime) {
        var builder = new StreamsBuilder();
        // Kafka Streams itself parses no JSON: Jackson is what its users take.
        var mapper = new ObjectMapper();
        Deserializer<Event> deserializer = (topic, bytes) -> {
            try {
                return mapper.readValue(bytes, Event.class);
            } catch (java.io.IOException exception) {
                throw new java.io.UncheckedIOException(exception);
            }
        };
        Serializer<Event> serializer = (topic, event) -> {
            throw new UnsupportedOperationException("events are only read");
        };
        var consumed = Consumed.with(Serdes.String(), Serdes.serdeFrom(serializer, deserializer))
            .withTimestampExtractor(eventTime);
        var supplier = inMemory
            ? Stores.inMemoryWindowStore(STORE, RETENTION, WINDOW, false)
            : Stores.persistentWindowStore(STORE, RETENTION, WINDOW, false);
        builder.stream(job.get("BENCH_TOPIC"), consumed)
            .groupByKey()
            .windowedBy(TimeWindows.ofSizeWithNoGrace(WINDOW))
            .count(Materialized.<String, Long>as(supplier).withKeySerde(Serdes.String()).withCachingEnabled());
        return builder.build();
    }

    private Properties settings(String application) {
        var settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, application);
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, job.get("BENCH_BROKER"));
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, guarantee);
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, COMMIT_INTERVAL_MS);
        settings.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
        settings.put(StreamsConfig.STATE_DIR_CONFIG, job.get("BENCH_STATE"));
        settings.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
        return settings;
    }

    private long committed(Admin admin, String application) throws Exception {
        var offsets = admin.listConsumerGroupOffsets(application).partitionsToOffsetAndMetadata().get();
        return offsets.entrySet().stream()
            .filter(entry -> entry.getKey().topic().equals(job.get("BENCH_TOPIC")) && entry.getValue() != null)
            .mapToLong(entry -> entry.getValue().offset())
            .sum();
    }

    /** The sorted lines "key TAB window start in ms TAB count". */
    private List<String> rows(KafkaStreams streams) {
        var store = streams.store(
            StoreQueryParameters.fromNameAndType(STORE, QueryableStoreTypes.<String, Long>windowStore()));
        var lines = new ArrayList<String>();
        try (var all = store.all()) {
            all.forEachRemaining(row -> lines.add(line(row.key, row.value)));
        }
        Collections.sort(lines);
        return lines;
    }

    private static String line(Windowed<String> key, long count) {
        return key.key() + "\t" + key.window().start() + "\t" + count + "\n";
    }

    private void report(EventTime eventTime, Moment done, List<String> lines) throws Exception {
        var total = new AtomicLong();
        var digest = MessageDigest.getInstance("SHA-256");
        for (var line : lines) {
            total.addAndGet(Long.parseLong(line.substring(line.lastIndexOf('\t') + 1).strip()));
            digest.update(line.getBytes(StandardCharsets.UTF_8));
        }
        var result = Map.of(
            "cpu_s", (done.cpu() - eventTime.first.cpu()) / 1e9,
            "wall_s", (eventTime.last.wall() - eventTime.first.wall()) / 1e9,
            "rows", lines.size(),
            "total", total.get(),
            "digest", HexFormat.of().formatHex(digest.digest()),
            "rss_mb", residentMb(),
            "versions", Map.of(
                "kafka-streams", AppInfoParser.getVersion(), "java", System.getProperty("java.version")));
        Path path = Path.of(job.get("BENCH_RESULT"));
        Path part = Path.of(path + ".part");
        Files.writeString(part, new ObjectMapper().writeValueAsString(result));
        Files.move(part, path, StandardCopyOption.ATOMIC_MOVE);
    }

    private static long residentMb() throws Exception {
        Path status = Path.of("/proc/self/status");
        if (!Files.exists(status)) {
            return 0;
        }
        return Files.readAllLines(status).stream()
            .filter(line -> line.startsWith("VmHWM:"))
            .mapToLong(line -> Long.parseLong(line.replaceAll("\\D", "")) / 1024)
            .findFirst()
            .orElse(0);
    }
}
